"""Checks a dataset on disk: counts its files, finds those without a partner, and opens every one."""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from tqdm.auto import tqdm

from ..errors import InputError, killed_workers
from .arguments import DataArguments
from .images import read_image
from .labels import LabelImage, check_sizes, read_label
from .sources import cityscapes, mapillary
from .sources.base import Example, list_images
from .sources.layouts import LAYOUTS, find_layout, open_source

_LISTED = 20  # of missing files, which come in thousands when a zip is not unpacked


@dataclass
class Report:
    """
    The findings of [`check_data`]; `str(report)` is for people. `counts` and `official` are by (split, city), or
    (split, None) for the split; `missing` is by split. `notes` name nothing that needs to be repaired.
    """

    title: str
    kinds: list[str]
    counts: dict[tuple[str, str | None], Counter] = field(default_factory=dict)
    official: dict[tuple[str, str | None], int] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Returns whether nothing is missing or broken."""
        return not (self.missing or self.broken or self.differs)

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
        for note in self.notes:
            lines += ["", f"note: {note}"]
        missing = []
        for found in self.missing.values():
            missing += found[:_LISTED]
            if len(found) > _LISTED:
                missing.append(f"… and {len(found) - _LISTED} more of this split")
        sections = {"differs from the official data": self.differs, "missing": missing, "broken": self.broken}
        for heading, problems in sections.items():
            if problems:
                lines += ["", f"{heading}:", *(f"  {problem}" for problem in problems)]
        splits = [counts for (_, city), counts in self.counts.items() if city is None]
        files = f"{sum(counts[kind] for counts in splits for kind in ('images', *self.kinds)):,} files"
        found = {"missing": sum(map(len, self.missing.values())), "broken": len(self.broken)}
        found["official numbers not met"] = len(self.differs)
        problems = ", ".join(f"{count:,} {what}" for what, count in found.items() if count)
        verdict = f"Complete and sound: {files} opened." if self.sound else f"NOT sound: {problems}; {files} found."
        return "\n".join([*lines, "", verdict])


def check_data(
    data_dir: str | os.PathLike, num_proc: int | None = None, recipe: DataArguments | None = None
) -> Report:
    """
    Opens every image and label, and counts them; finds files that are missing or cannot be read, labels of another
    size than their image, and unknown ids.

    Args:
        data_dir (`str`): The folder of the data.
        num_proc (`int`, *optional*): The number of processes; by default one for each core.
        recipe ([`DataArguments`], *optional*): The classes and ids of a folder of your own, and `unlabeled_dirs`.
    """
    if num_proc is not None and num_proc < 1:
        raise InputError(f"num_proc: {num_proc} is too few processes; give 1 or more")
    args = find_layout(data_dir, recipe)
    layout = LAYOUTS[args.dataset]
    examples = layout.find_examples(args.data_dir)
    if not examples:
        raise InputError(f"{data_dir}: its folders hold no images; unpack the data there")
    kinds = list(dict.fromkeys(kind for example in examples for kind in example.labels))
    report = Report(f"{data_dir}: {layout.TITLE}", kinds)
    configs = {kind: kind if args.dataset == "mapillary" else None for kind in kinds}
    tables = {kind: open_source(replace(args, dataset_config=configs[kind])).labels for kind in kinds}
    if args.dataset == "folder":
        unlabeled = {example.split for example in examples} - {example.split for example in examples if example.labels}
        report.notes += [f"{split} has no folder labels: its images are unlabeled" for split in sorted(unlabeled)]
    for folder in recipe.unlabeled_dirs if recipe else ():
        for name in list_images(folder):
            examples.append(Example(folder, name, os.path.join(folder, name), {}, frozenset({"image"})))
    _open_all(report, examples, tables, num_proc)
    if args.dataset == "cityscapes":
        _compare_cityscapes(report, {example.id for example in examples})
    elif args.dataset == "mapillary":
        _compare(report, {(split, None): number for split, number in mapillary.NUM_IMAGES.items()})
    return report


@killed_workers()
def _open_all(report: Report, examples: list[Example], tables: dict[str, LabelImage], num_proc: int | None) -> None:
    """Opens all files, and enters the counts and what is missing or broken into the report."""
    processes = min(num_proc or os.cpu_count() or 1, len(examples))
    chunk, images = min(16, -(-len(examples) // processes)), {}
    with ProcessPoolExecutor(processes) as executor:
        found = executor.map(partial(_open, tables=tables), examples, chunksize=chunk)
        for example, (present, missing, broken) in zip(examples, tqdm(found, "Opening every file", len(examples))):
            if example.image != images.setdefault((example.split, example.id), example.image):
                broken.append(f"{example.image}: a second image named {example.id}; rename one of them")
            for city in dict.fromkeys([None, example.city]):
                counts = report.counts.setdefault((example.split, city), Counter())
                counts.update(present, problems=len(missing) + len(broken))
            if missing:
                report.missing.setdefault(example.split, []).extend(missing)
            report.broken += broken


def _open(example: Example, tables: dict[str, LabelImage]) -> tuple[dict[str, int], list[str], list[str]]:
    """Returns counts of `"images"` and of each kind of label, what is missing and what is broken."""
    has_image = "image" in example.present
    present, missing, broken = {"images": int(has_image)}, [], []
    size = None
    if has_image and example.id not in cityscapes.BROKEN_IMAGES:  # which training leaves out
        try:
            size = read_image(example.image).shape[1::-1]
        except InputError as error:
            broken.append(str(error))
    for kind, path in example.labels.items():
        present[kind] = int(kind in example.present)
        if has_image and not present[kind]:
            missing.append(f"{example.image}: its label is missing, looked for {path}")
        if present[kind] and not has_image:
            missing.append(f"{path}: its image is missing, looked for {example.image}")
        if present[kind]:
            try:
                label_size = read_label(path, tables[kind]).shape[::-1]
                check_sizes({"image": example.image, "label": path}, size or label_size, label_size)
            except InputError as error:
                broken.append(str(error))
    return present, missing, broken


def _compare_cityscapes(report: Report, ids: set[str]) -> None:
    has_extra = ("train_extra", None) in report.counts
    if has_extra and "gtCoarse" not in report.kinds:
        report.notes.append("there are no coarse labels (gtCoarse.zip): set use_coarse_labels to false or unpack them")
    if not any(city in cityscapes.ALL_CITIES for _, city in report.counts):
        report.notes.append("these are not the official cities: counted only")
        return
    report.title += ", the official data"
    if not has_extra:
        report.notes.append("train_extra, the paper's unlabeled images, is not there (leftImg8bit_trainextra.zip)")
    official = {(split, None): number for split, number in cityscapes.NUM_IMAGES.items()}
    for split, cities in cityscapes.CITIES.items():
        official |= {(split, city): number for city, number in cities.items() if number is not None}
    _compare(report, {key: number for key, number in official.items() if has_extra or key[0] != "train_extra"})
    for image_id in sorted(cityscapes.BROKEN_IMAGES & ids):
        report.notes.append(f"{image_id} of train_extra is a gray field in the official data: training leaves it out")


def _compare(report: Report, official: dict[tuple[str, str | None], int]) -> None:
    report.official = official
    for (split, city), number in official.items():
        images = report.counts.get((split, city), Counter())["images"]
        if images != number and ((split, None) in report.counts or city is None):
            name = split if city is None else f"{split}/{city}"
            report.differs.append(f"{name}: {images:,} images, officially {number:,}")
