"""The scores of checkpoints on pages: a text table, Markdown, JSON."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cityscapes_scoring import TABLE_NAMES, category_ious
from .data.cityscapes import ID2LABEL
from .evaluation import EvaluationArguments, protocol_in_words


@dataclass
class Report:
    """
    The scores of one checkpoint, for people and for programs.

    Args:
        name (`str`): What tables call it.
        checkpoint (`str`): Path or Hub id.
        id2label (`dict[int, str]`): The classes of the data.
        results (`dict`): Of [`~scl_hf.evaluation.score`].
        official (`dict[str, float]`, *optional*): Of [`~scl_hf.cityscapes_scoring.official_scores`].
    """

    name: str
    checkpoint: str
    id2label: dict[int, str]
    results: dict[str, Any]
    official: dict[str, float] | None = None

    @property
    def is_cityscapes(self) -> bool:
        return self.id2label == ID2LABEL

    def class_ious(self) -> dict[str, float]:
        """Class -> IoU, in the order of the train ids, which is that of the paper's Table 1."""
        return dict(zip(self.id2label.values(), self.results["per_category_iou"]))

    def category_ious(self) -> dict[str, float]:
        """Category -> IoU; empty where the classes are not Cityscapes'."""
        return category_ious(self.results["confusion_matrix"].numpy()) if self.is_cityscapes else {}

    def mean_category_iou(self) -> float:
        return _mean(self.category_ious().values())

    def official_difference(self) -> float:
        """By how much the official scorer's means differ from these."""
        ours = {"mean_iou": self.results["mean_iou"], "mean_category_iou": self.mean_category_iou()}
        pairs = [(ours[name], self.official[name]) for name in ours]
        return max(0.0 if math.isnan(a) and math.isnan(b) else abs(a - b) for a, b in pairs)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        classes = list(self.id2label.values())
        values = {"name": self.name, "checkpoint": self.checkpoint}
        values |= {name: self.results[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}
        values["iou"] = self.class_ious()
        values["accuracy"] = dict(zip(classes, self.results["per_category_accuracy"]))
        if self.is_cityscapes:
            values |= {"mean_category_iou": self.mean_category_iou(), "category_iou": self.category_ious()}
        if self.official:
            values["official"] = self.official | {"difference": self.official_difference()}
        values["confusion_matrix"] = self.results["confusion_matrix"].tolist()
        return values


def text_table(reports: Sequence[Report]) -> str:
    """
    Scores in percent as plain text, a column for each checkpoint.

    Args:
        reports (`Sequence[Report]`): Of checkpoints with the same classes.

    Returns:
        `str`: Classes, their mean, categories where there are some, and pixel accuracy.
    """
    sections = [
        [("IoU %", [report.name for report in reports])],
        [(name, [report.class_ious()[name] for report in reports]) for name in reports[0].class_ious()],
        [("mean IoU", [report.results["mean_iou"] for report in reports])],
        [(name, [report.category_ious()[name] for report in reports]) for name in reports[0].category_ious()],
        [
            ("mean of categories", [report.mean_category_iou() for report in reports]),
            ("pixel accuracy", [report.results["overall_accuracy"] for report in reports]),
        ][0 if reports[0].is_cityscapes else 1 :],
    ]
    sections = [
        [
            (name, [value if isinstance(value, str) else _percent(value, 2) for value in values])
            for name, values in rows
        ]
        for rows in sections
        if rows
    ]
    width = max(len(name) for rows in sections for name, _ in rows)
    columns = [max(len(values[i]) for rows in sections for _, values in rows) for i in range(len(reports))]
    rule = "-" * (width + sum(columns) + 2 * len(columns))
    blocks = [
        "\n".join(
            name.ljust(width) + "".join(f"  {value:>{column}}" for value, column in zip(values, columns))
            for name, values in rows
        )
        for rows in sections
    ]
    return f"\n{rule}\n".join(blocks)


def markdown_page(
    reports: Sequence[Report], data: str, num_images: int, protocol: EvaluationArguments, dtype: str
) -> str:
    """
    Scores as a page: a row for each checkpoint, ready for the paper's Table 1 where the classes are Cityscapes'.

    Args:
        reports (`Sequence[Report]`): Of checkpoints with the same classes.
        data (`str`): The data, in words.
        num_images (`int`): How many images were scored.
        protocol ([`~scl_hf.evaluation.EvaluationArguments`]): How they were predicted.
        dtype (`str`): In which precision.

    Returns:
        `str`: Markdown.
    """
    classes = TABLE_NAMES if reports[0].is_cityscapes else list(reports[0].id2label.values())
    rows = {report.name: [*report.class_ious().values(), report.results["mean_iou"]] for report in reports}
    summary, columns = {report.name: [report.results["overall_accuracy"]] for report in reports}, ["pixel accuracy"]
    if reports[0].is_cityscapes:
        columns = [*reports[0].category_ious(), "mean of categories", *columns]
        for report in reports:
            scores = [*report.category_ious().values(), report.mean_category_iou()]
            summary[report.name] = scores + summary[report.name]
    parts = [
        f"# {data}",
        f"{num_images} images, {protocol_in_words(protocol)}, {dtype}. IoU and accuracy in percent.",
        _markdown_table(rows, [*classes, "mIoU"]),
        _markdown_table(summary, columns),
    ]
    for report in reports:
        if report.official:
            means = [_percent(report.official[name], 4) for name in ("mean_iou", "mean_category_iou")]
            parts.append(
                f"Cityscapes' own scorer on the PNGs of {report.name}: mIoU {means[0]}, mean of categories {means[1]};"
                f" the difference to the scores above is {report.official_difference():.1e}."
            )
    return "\n\n".join(parts) + "\n"


def json_page(reports: Sequence[Report], data: Mapping[str, Any], protocol: EvaluationArguments, dtype: str) -> str:
    """
    Scores for programs, in 0 … 1; null for what has no score. A row of the confusion matrix is a class of the labels.

    Args:
        reports (`Sequence[Report]`): The checkpoints.
        data (`Mapping[str, Any]`): What they were scored on.
        protocol ([`~scl_hf.evaluation.EvaluationArguments`]): How the images were predicted.
        dtype (`str`): In which precision.

    Returns:
        `str`: JSON.
    """
    settings = {name: value for name, value in asdict(protocol).items() if name.startswith("eval_")}
    page = {
        **data,
        "protocol": settings | {"dtype": dtype},
        "checkpoints": [report.as_dict() for report in reports],
    }
    text = json.dumps(_nan_to_none(page), indent=2, ensure_ascii=False)
    # A row of a matrix stays on one line.
    return re.sub(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]", lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _markdown_table(rows: Mapping[str, Sequence[float]], columns: Sequence[str]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    scores = [line([name, *(_percent(value, 1) for value in values)]) for name, values in rows.items()]
    return "\n".join([line(["", *columns]), "|---|" + "---:|" * len(columns), *scores])


def _percent(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _mean(values: Iterable[float]) -> float:
    scored = [value for value in values if not math.isnan(value)]
    return sum(scored) / len(scored) if scored else math.nan
