"""Renders a table's results as a page of Markdown, and each run's scores as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from scl_hf.errors import counted

from .labels import Worth, label_counts, worth_in_labels
from .running import VERSIONS
from .summary import MEAN, Estimate, Summary
from .table import Run, Table


def markdown_page(
    table: Table, summary: Summary, failed: Mapping[Run, str], seconds: Sequence[float], figure: str
) -> str:
    """
    Returns the main table, its gaps with their reasons, a figure, what unlabeled images are worth in labels,
    differences between rows, gains of each class. `seconds` are those of the finished runs.
    """
    several = len(table.seeds) > 1
    parts = [
        f"# {table.title}",
        f"Mean IoU in percent of the evaluated model at its last step, {counted(len(table.seeds), 'seed')} "
        f"({', '.join(map(str, table.seeds))})"
        + (", ± half of the 95 % interval (Student's t)" if several else "")
        + ". Differences are paired: to the baseline with the same label share and seed; bold ones have an interval "
        "without 0.",
        _main_table(summary),
        _baselines(table, summary),
    ]
    if failed:
        parts += ["Gaps:", "\n".join(f"- {run}: {_plain(reason)}" for run, reason in failed.items())]
    if seconds:
        parts.append(f"![{_plain(table.title)}]({quote(figure)})")
    parts += _worth(table, summary)
    for share in summary.shares:
        if summary.classes[share] and len(summary.rows) > 2:
            parts += [f"Each row minus each other, {_plain(share)}:", _row_table(summary, share)]
        if summary.classes[share] and len(summary.rows) > 1:
            parts += [f"Gains of each class, {_plain(share)}:", _class_table(summary, share)]
    versions = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    hours = sum(seconds) / 3600
    parts.append(f"{len(seconds)} of {len(table.runs)} runs, {hours:.1f} hours in all, one run at a time. {versions}.")
    return "\n\n".join(parts) + "\n"


def scores_csv(results: Iterable[Mapping[str, Any]]) -> str:
    """Returns one line a run: its names, its seconds, its scores and the IoU of each class, in 0 … 1."""
    lines = []
    for result in results:
        scores = dict(result["scores"])
        per_class = {f"IoU {label}": value for label, value in scores.pop("iou").items()}
        lines.append({name: result[name] for name in ("share", "row", "seed", "seconds")} | scores | per_class)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _main_table(summary: Summary) -> str:
    header, lines = ["", *(cell for share in summary.shares for cell in (share, "difference"))], []
    for row in summary.rows:
        cells = [row]
        for share in summary.shares:
            gain = plus_minus(summary.gain(share, row), signed=True)
            cells += [plus_minus(summary.mean(share, row)), "baseline" if row == summary.baseline[share] else gain]
        lines.append(cells)
    return _lines(header, lines)


def _row_table(summary: Summary, share: str) -> str:
    """Returns the differences of each row to each other one."""
    lines = []
    for row in summary.rows:
        others = (None if other == row else summary.difference(share, row, other) for other in summary.rows)
        lines.append([row, *(plus_minus(difference, signed=True) for difference in others)])
    return _lines(["", *(f"to {row}" for row in summary.rows)], lines)


def _class_table(summary: Summary, share: str) -> str:
    baseline = summary.baseline[share]
    rows = [row for row in summary.rows if row != baseline]
    lines = []
    for name in (*summary.classes[share], MEAN):
        gains = [plus_minus(summary.gain(share, row, name), signed=True) for row in rows]
        lines.append([name, plus_minus(summary.mean(share, baseline, name)) if baseline else "–", *gains])
    return _lines(["", baseline or "baseline", *rows], lines)


def _baselines(table: Table, summary: Summary) -> str:
    """Returns the line that names the baseline of each share."""
    if len(table.baseline) == 1:
        return f"Baseline: {_plain(table.baseline[0])}."
    chosen = [f"{_plain(share)}: {_plain(row or 'none yet')}" for share, row in summary.baseline.items()]
    named = " and ".join(map(_plain, table.baseline))
    return f"Baseline: of {named} the one with the higher mean. {'; '.join(chosen)}."


def _worth(table: Table, summary: Summary) -> list[str]:
    """Returns what the unlabeled images are worth at each number of labels, where the baseline does without them."""
    counts = label_counts(summary.shares)
    rows = dict.fromkeys(run.row for run in table.runs if run.semi_supervised)
    if not rows.keys().isdisjoint(table.baseline):
        return []
    lines = [
        f"- {_plain(row)}: {counted(counts[share], 'label')} and the unlabeled images are worth {_in_labels(worth)}"
        for row in rows
        for share in counts
        if (worth := worth_in_labels(summary, counts, share, row))
    ]
    method = (
        "What the unlabeled images are worth: the least number of labels at which the baseline reaches the same mean, "
        "on a curve that runs straight between the shares over the logarithm of the number. The interval: the "
        "numbers around it at which the interval of the difference, paired by seed, holds 0."
    )
    return [method, "\n".join(lines)] if lines else []


def _in_labels(worth: Worth) -> str:
    """Formats a number of labels with its interval and the seeds beyond their own curve."""

    def end(number: float) -> str:
        if number < worth.first:
            return f"fewer than {worth.first:,}"
        return f"more than {worth.last:,}" if number > worth.last else f"{number:,}"

    number, low, high = map(end, worth[:3])
    notes = [f"95 % interval {low}" + f" to {high}" * (high != low)] if worth.seeds > 1 else ["one seed, no interval"]
    if worth.outside and worth.seeds > 1:
        notes.append(f"seeds beyond their own curve: {worth.outside} of {worth.seeds}")
    return f"{number} label{'s' * (number != '1')} alone ({'; '.join(notes)})"


def plus_minus(value: Estimate | None, signed: bool = False) -> str:
    """Formats a mean with its interval, a difference in bold where the interval excludes 0."""
    if value is None:
        return "–"
    text = signed_number(value.mean, 2) if signed else f"{value.mean:.2f}"
    if signed and value.excludes_zero:
        text = f"**{text}**"
    return text if math.isnan(value.half) else f"{text} ± {value.half:.2f}"


def signed_number(value: float, digits: int) -> str:
    """Formats a number with + or a true minus sign, and none where it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_plain, cells)) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
