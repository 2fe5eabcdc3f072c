"""Losses and mean IoU as a picture. Importing matplotlib takes a second: import this module where it is needed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from .confusion import GRAY, save_figure

TERMS = {
    "loss": "loss, all terms",
    "loss_x": "$L_x$, labels",
    "loss_c": "$L_c$, consistency",
    "loss_sc": "$L_{sc}$, structured consistency",
}
# Okabe and Ito, the dark ones first: these are lines on white.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def plot_curves(runs: Mapping[str, list[dict[str, float]]], path: str | Path) -> Path:
    """
    Draws losses and mean IoU over the steps, one color a run (its name -> its `log_history`), to a file of a type
    that matplotlib knows. A dotted line is where unlabeled images join.
    """
    for name, log in runs.items():
        if not any(key in entry for key in (*TERMS, "eval_mean_iou") for entry in log):
            raise InputError(f"{name}: has logged neither a loss nor a mean IoU; train for more than logging_steps")
    logged = {key for log in runs.values() for entry in log for key in entry}
    terms = [term for term in TERMS if term in logged]
    right = ["mean IoU"] * 2 if "eval_mean_iou" in logged else []
    rows = [[*terms[i : i + 2], "."][:2] + right for i in range(0, len(terms), 2)] or [right]
    figure = Figure(figsize=(1 + 2.5 * len(rows[0]), 1.2 + 2 * len(rows)), layout="constrained")
    axes = figure.subplot_mosaic(rows)
    handles = []
    for index, (name, log) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        for term in terms:
            _draw_loss(axes[term], log, term, color)
        handles += _draw_scores(axes.get("mean IoU"), log, name, color)
        join = _join_step(log)
        for one in axes.values() if join else ():
            one.axvline(join, color=color if len(runs) > 1 else GRAY, linestyle=":", linewidth=1.2, zorder=1)
    if any(map(_join_step, runs.values())):
        handles.append(Line2D([], [], color=GRAY, linestyle=":", linewidth=1.2, label="unlabeled images join"))

    first = min(one.get_xlim()[0] for one in axes.values())
    last = max(one.get_xlim()[1] for one in axes.values())
    for key, one in axes.items():
        one.set_title(TERMS.get(key, "mean IoU (%)"), loc="left", fontsize="medium")
        one.set_xlim(first, last)
        one.set_ylim(bottom=0 if key in TERMS else None)
        if key not in TERMS:
            one.yaxis.set_major_locator(MaxNLocator(integer=True))
        one.set_xlabel("step" if key in rows[-1] else None)
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may have a dollar sign
    return save_figure(figure, path)


def _draw_loss(axes: Axes, log: list[dict[str, float]], term: str, color: str) -> None:
    """Every logged value; where there are many they are pale, below their mean over a fiftieth of the run."""
    steps, values = _series(log, term)
    window = max(1, len(values) // 50)
    if window > 1:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        steps = np.convolve(steps, np.full(window, 1 / window), mode="valid")
        values = np.convolve(values, np.full(window, 1 / window), mode="valid")
    axes.plot(steps, values, color=color, linewidth=1.6)


def _draw_scores(axes: Axes | None, log: list[dict[str, float]], run: str, color: str) -> list[Line2D]:
    """The evaluated model as a full line, the other one dashed; returns what the legend says of the run."""
    logged = {key for entry in log for key in entry}
    if "eval_student_mean_iou" in logged:
        names = {"eval_mean_iou": f"{run}, EMA model", "eval_student_mean_iou": f"{run}, student"}
    elif "eval_teacher_mean_iou" in logged:
        names = {"eval_mean_iou": f"{run}, student", "eval_teacher_mean_iou": f"{run}, EMA model"}
    else:
        names = {"eval_mean_iou": run}
    lines = []
    for (key, name), style in zip(names.items(), ("-", "--")):
        steps, values = _series(log, key)
        if len(steps):
            label = f"{name}: {100 * values[-1]:.1f} %"
            lines += axes.plot(steps, 100 * values, style, color=color, marker="o", markersize=3.5, label=label)
    return lines or [Line2D([], [], color=color, label=run)]


def _series(log: list[dict[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def _join_step(log: list[dict[str, float]]) -> float | None:
    """The last step that was logged without a loss of unlabeled images, if they came later."""
    steps = [entry["step"] for entry in log if "loss" in entry]
    with_unlabeled = [entry["step"] for entry in log if "loss_c" in entry or "loss_sc" in entry]
    return max((step for step in steps if step < min(with_unlabeled)), default=None) if with_unlabeled else None
