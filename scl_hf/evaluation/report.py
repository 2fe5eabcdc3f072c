"""The scores of checkpoints as a text table and Markdown, and confusion matrices as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.sources.cityscapes import is_cityscapes
from .official import TABLE_NAMES, category_ious
from .scoring import SCORES, EvaluationArguments, describe_settings

Report = dict[str, Any]


def make_report(
    name: str, checkpoint: str, id2label: dict[int, str], results: dict[str, Any], official: dict[str, float] | None
) -> Report:
    """Collects the results of `score` and of `official_scores` for one checkpoint; in 0 … 1, NaN for no score."""
    report = {"name": name, "checkpoint": checkpoint} | {score: results[score] for score in SCORES}
    report["iou"] = dict(zip(id2label.values(), results["per_category_iou"]))
    report["accuracy"] = dict(zip(id2label.values(), results["per_category_accuracy"]))
    if is_cityscapes(id2label):
        ious = category_ious(results["confusion_matrix"].numpy())
        mean = torch.tensor([*ious.values()], dtype=torch.float64).nanmean().item()
        report |= {"mean_category_iou": mean, "category_iou": ious}
    if official:
        ours, theirs = (np.array([s["mean_iou"], s["mean_category_iou"]]) for s in (report, official))
        # NaN where only one of the two scorers has a score
        difference = np.where(np.isnan(ours) & np.isnan(theirs), 0, np.abs(ours - theirs)).max()
        report["official"] = {**official, "difference": float(difference)}
    return report


def _sections(report: Report) -> list[dict[str, float]]:
    """Returns the sections of a table: classes, their mean, categories, the rest."""
    sections = [report["iou"], {"mean IoU": report["mean_iou"]}, {"pixel accuracy": report["overall_accuracy"]}]
    if "category_iou" in report:
        sections[2:] = [report["category_iou"], {"mean of categories": report["mean_category_iou"]} | sections[2]]
    return sections


def text_table(reports: Sequence[Report]) -> str:
    """Returns scores in percent as plain text, a column for each checkpoint; all have the same classes."""
    blocks = [[["IoU %", *(report["name"] for report in reports)]]]
    for sections in zip(*map(_sections, reports)):
        blocks.append([[name, *(_percent(scores[name], 2) for scores in sections)] for name in sections[0]])
    return _aligned(blocks)


def iou_table(results: Mapping[str, Any], id2label: Mapping[int, str]) -> str:
    """Returns the IoU of each class and their mean in percent as text, of [`~scl_hf.evaluation.scoring.score`]."""
    ious = results["per_category_iou"]
    classes = [[id2label[i], _percent(iou, 2)] for i, iou in enumerate(ious)]
    table = _aligned([[["class", "IoU %"]], classes, [["mean", _percent(results["mean_iou"], 2)]]])
    return table + "\n– not in the evaluated labels" * any(map(math.isnan, ious))


def _aligned(blocks: Sequence[Sequence[Sequence[str]]]) -> str:
    """Returns blocks of table rows as text in columns, with a rule between blocks."""
    widths = [max(map(len, column)) for column in zip(*(row for block in blocks for row in block))]
    rule = "\n" + "-" * (sum(widths) + 2 * (len(widths) - 1)) + "\n"
    return rule.join(
        "\n".join("  ".join([name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]) for name, *values in block)
        for block in blocks
    )


def markdown_page(reports: Sequence[Report], data: str, num_images: int, args: EvaluationArguments, dtype: str) -> str:
    """Returns scores as Markdown, a line for each checkpoint, for Cityscapes' classes as in the paper's Table 1."""
    classes, mean, *summary = zip(*map(_sections, reports))
    names = TABLE_NAMES if "category_iou" in reports[0] else list(classes[0])
    parts = [
        f"# {data}",
        f"{num_images} images, {describe_settings(args)}, {dtype}. IoU and accuracy in percent.",
        _markdown_table(reports, [*names, "mIoU"], [classes, mean]),
        _markdown_table(reports, [name for sections in summary for name in sections[0]], summary),
    ]
    for report in reports:
        if official := report.get("official"):
            means = [_percent(official[name], 4) for name in ("mean_iou", "mean_category_iou")]
            parts.append(
                f"Cityscapes' own scorer on the PNGs of {report['name']}: mIoU {means[0]}, mean of categories "
                f"{means[1]}; the difference to the scores above is {official['difference']:.1e}."
            )
    return "\n\n".join(parts) + "\n"


def _markdown_table(reports: Sequence[Report], columns: Sequence[str], sections: Sequence[Sequence[dict]]) -> str:
    lines = [["", *columns]]
    for report, of_report in zip(reports, zip(*sections)):
        lines.append([report["name"], *(_percent(value, 1) for scores in of_report for value in scores.values())])
    head, *rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
    return "\n".join([head, "|---|" + "---:|" * len(columns), *rows])


def confusion_page(id2label: Mapping[int, str], confusion_matrix: torch.Tensor) -> str:
    """Returns a confusion matrix in pixels as CSV: a line for each labeled class, a column for each predicted one."""
    page, names = io.StringIO(), list(id2label.values())
    lines = ([name, *counts] for name, counts in zip(names, confusion_matrix.tolist()))
    csv.writer(page, lineterminator="\n").writerows([["label", *names], *lines])
    return page.getvalue()


def _percent(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"
