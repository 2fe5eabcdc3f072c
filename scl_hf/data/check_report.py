"""What `check` has found, in words for people."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .images import IGNORE_INDEX

LISTED = 20  # problems of a kind, which come in thousands when a zip is not unpacked


class Sample(NamedTuple):
    """An image (H, W, 3) to show and perhaps its label (H, W), both made smaller."""

    name: str
    image: np.ndarray
    label: np.ndarray | None


@dataclass
class Report:
    """
    The findings of [`check_data`]; `str(report)` is for people. `counts` and `official` are by (split, city), or
    (split, None) for the split; `missing` is by split. `notes` name nothing that needs to be repaired. `shares` are
    those of pixels and of labels that show a train id, (2, 256). `labeled` and `unlabeled` are a few images to show,
    with names and colors (num_classes, 3) of the classes. Paths are shown from `root`.
    """

    name: str
    root: str
    title: str
    kinds: list[str]
    id2label: dict[int, str]
    palette: np.ndarray = field(repr=False)
    counts: dict[tuple[str, str | None], Counter] = field(default_factory=dict)
    official: dict[tuple[str, str | None], int] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shares: np.ndarray = field(default_factory=lambda: np.zeros((2, IGNORE_INDEX + 1)), repr=False)
    labeled: list[Sample] = field(default_factory=list, repr=False)
    unlabeled: list[Sample] = field(default_factory=list, repr=False)

    @property
    def sound(self) -> bool:
        """Returns whether nothing is wrong, missing or broken."""
        return not (self.problems or self.missing or self.broken or self.differs)

    def __str__(self) -> str:
        columns = ["images", *["official"] * bool(self.official), *self.kinds, "problems"]
        table = [["split", *columns]]
        for key, counts in self.counts.items():
            numbers = {"official": self.official.get(key), **counts}
            cells = ["–" if numbers.get(column) is None else f"{numbers[column]:,}" for column in columns]
            table.append([key[0] if key[1] is None else f"  {key[1]}", *cells])
        first, *others = [max(map(len, column)) for column in zip(*table)]
        lines = [self.title, ""]
        lines += ["  ".join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in table]
        lines += ["", *(f"note: {note}" for note in _cut(self.notes, "notes"))] if self.notes else []
        missing = [line for split, found in self.missing.items() for line in _cut(found, f"files of {split}")]
        sections = {
            "wrong": self.problems,
            "differs from the official data": _cut(self.differs, "numbers"),
            "missing": missing,
            "broken": _cut(_group(self.broken), "kinds of problems"),
        }
        for heading, problems in sections.items():
            if problems:
                lines += ["", f"{heading}:", *(f"  {problem}" for problem in problems)]
        splits = [counts for (_, city), counts in self.counts.items() if city is None]
        files = f"{sum(counts[kind] for counts in splits for kind in ('images', *self.kinds)):,} files"
        found = {"wrong": len(self.problems), "missing": sum(map(len, self.missing.values()))}
        found |= {"broken": len(self.broken), "official numbers not met": len(self.differs)}
        problems = ", ".join(f"{count:,} {what}" for what, count in found.items() if count)
        verdict = f"Complete and sound: {files} opened." if self.sound else f"NOT sound: {problems}; {files} found."
        return "\n".join([*lines, "", verdict]).replace(os.path.join(os.path.abspath(self.root), ""), "")


def _cut(lines: Sequence[str], what: str) -> list[str]:
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"… and {more:,} more {what}"] if more > 0 else [])]


def _group(problems: Sequence[str]) -> list[str]:
    """Joins problems `file: reason` whose reasons differ in numbers, colors and paths only."""
    groups = {}
    for problem in problems:
        reason = problem.partition(": ")[2]
        groups.setdefault(re.sub(r"\S*[/\\]\S*|#[0-9a-f]{6}|\d[\d.,]*", "0", reason), []).append(problem)
    return [f"{len(group):,} files, such as {group[0]}" if len(group) > 1 else group[0] for group in groups.values()]
