"""The scores of checkpoints as a text table, Markdown and JSON, and confusion matrices as CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.sources.cityscapes import is_cityscapes
from .official import TABLE_NAMES, category_ious
from .scoring import SCORES, EvaluationArguments, describe_settings


@dataclass
class Report:
    """The scores of one checkpoint, in 0 … 1."""

    name: str  # in tables
    checkpoint: str  # path or Hub id
    id2label: dict[int, str]  # of the data
    results: dict[str, Any]  # of `score`
    official: dict[str, float] | None = None  # of `official_scores`
    class_iou: dict[str, float] = field(init=False)
    category_iou: dict[str, float] = field(init=False)
    mean_category_iou: float = field(init=False)

    def __post_init__(self):
        # In the order of the train ids, which is that of the paper's Table 1
        self.class_iou = dict(zip(self.id2label.values(), self.results["per_category_iou"]))
        cityscapes = is_cityscapes(self.id2label)
        self.category_iou = category_ious(self.results["confusion_matrix"].numpy()) if cityscapes else {}
        self.mean_category_iou = torch.tensor([*self.category_iou.values()], dtype=torch.float64).nanmean().item()

    def sections(self) -> list[dict[str, float]]:
        """The sections of a table: classes, their mean, categories, the rest."""
        rest = {"mean of categories": self.mean_category_iou} if self.category_iou else {}
        rest |= {"pixel accuracy": self.results["overall_accuracy"]}
        sections = [self.class_iou, {"mean IoU": self.results["mean_iou"]}, self.category_iou, rest]
        return [section for section in sections if section]

    def official_difference(self) -> float:
        """The larger difference of the official scorer's two means; NaN where only one side has a score."""
        ours = np.array([self.results["mean_iou"], self.mean_category_iou])
        theirs = np.array([self.official["mean_iou"], self.official["mean_category_iou"]])
        return float(np.where(np.isnan(ours) & np.isnan(theirs), 0, np.abs(ours - theirs)).max())

    def as_dict(self) -> dict[str, Any]:
        """All scores; the confusion matrix is left out."""
        values = {"name": self.name, "checkpoint": self.checkpoint} | {name: self.results[name] for name in SCORES}
        values |= {"iou": self.class_iou}
        values |= {"accuracy": dict(zip(self.id2label.values(), self.results["per_category_accuracy"]))}
        if self.category_iou:
            values |= {"mean_category_iou": self.mean_category_iou, "category_iou": self.category_iou}
        return values | (
            {"official": self.official | {"difference": self.official_difference()}} if self.official else {}
        )


def text_table(reports: Sequence[Report]) -> str:
    """Scores in percent as plain text, a column for each checkpoint; all have the same classes."""
    blocks = [[["IoU %", *(report.name for report in reports)]]]
    for sections in zip(*(report.sections() for report in reports)):
        blocks.append([[name, *(_percent(scores[name], 2) for scores in sections)] for name in sections[0]])
    return _aligned(blocks)


def iou_table(results: Mapping[str, Any], id2label: Mapping[int, str]) -> str:
    """The IoU of each class and their mean in percent as plain text, of [`~scl_hf.evaluation.scoring.score`]."""
    ious = results["per_category_iou"]
    classes = [[id2label[i], _percent(iou, 2)] for i, iou in enumerate(ious)]
    table = _aligned([[["class", "IoU %"]], classes, [["mean", _percent(results["mean_iou"], 2)]]])
    return table + "\n– not in the evaluated labels" * any(map(math.isnan, ious))


def _aligned(blocks: Sequence[Sequence[Sequence[str]]]) -> str:
    """Blocks of rows of cells as text in columns, with a rule between blocks."""
    widths = [max(map(len, column)) for column in zip(*(row for block in blocks for row in block))]
    rule = "\n" + "-" * (sum(widths) + 2 * (len(widths) - 1)) + "\n"
    return rule.join(
        "\n".join("  ".join([name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]) for name, *values in block)
        for block in blocks
    )


def markdown_page(
    reports: Sequence[Report], data: str, num_images: int, evaluation: EvaluationArguments, dtype: str
) -> str:
    """Scores as Markdown, a line for each checkpoint, as in the paper's Table 1 where the classes are Cityscapes'."""
    classes, mean, *summary = zip(*(report.sections() for report in reports))
    names = TABLE_NAMES if reports[0].category_iou else list(classes[0])
    parts = [
        f"# {data}",
        f"{num_images} images, {describe_settings(evaluation)}, {dtype}. IoU and accuracy in percent.",
        _markdown_table(reports, [*names, "mIoU"], [classes, mean]),
        _markdown_table(reports, [name for sections in summary for name in sections[0]], summary),
    ]
    for report in filter(lambda report: report.official, reports):
        means = [_percent(report.official[name], 4) for name in ("mean_iou", "mean_category_iou")]
        parts.append(
            f"Cityscapes' own scorer on the PNGs of {report.name}: mIoU {means[0]}, mean of categories {means[1]};"
            f" the difference to the scores above is {report.official_difference():.1e}."
        )
    return "\n\n".join(parts) + "\n"


def _markdown_table(reports: Sequence[Report], columns: Sequence[str], sections: Sequence[Sequence[dict]]) -> str:
    lines = [["", *columns]]
    for report, of_report in zip(reports, zip(*sections)):
        lines.append([report.name, *(_percent(value, 1) for scores in of_report for value in scores.values())])
    head, *rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
    return "\n".join([head, "|---|" + "---:|" * len(columns), *rows])


def json_page(reports: Sequence[Report], settings: Mapping[str, Any], num_images: int) -> dict[str, Any]:
    """Scores for programs, None for what has no score; `settings` are all that they depend on."""
    page = {"settings": dict(settings), "images": num_images, "checkpoints": [report.as_dict() for report in reports]}
    return json.loads(json.dumps(page), parse_constant=lambda nan: None)


def confusion_page(report: Report) -> str:
    """A confusion matrix in pixels as CSV: a line for each class of the labels, a column for each predicted one."""
    page = io.StringIO()
    names = list(report.id2label.values())
    lines = ([name, *counts] for name, counts in zip(names, report.results["confusion_matrix"].tolist()))
    csv.writer(page, lineterminator="\n").writerows([["label", *names], *lines])
    return page.getvalue()


def _percent(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"
