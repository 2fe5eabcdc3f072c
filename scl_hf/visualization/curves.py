"""Draws losses and mean IoU. Importing matplotlib takes a second: import this module where it is needed."""

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
DOTTED = {"linestyle": ":", "linewidth": 1.2}

Log = list[dict[str, float]]


def plot_curves(runs: Mapping[str, Log], path: str | Path) -> Path:
    """
    Draws losses and mean IoU over the steps, one color a run (its name -> its `log_history`), to a file of a type that
    matplotlib knows. Dotted lines mark where unlabeled images join, or where each round begins.
    """
    for name, log in runs.items():
        if not any(key in entry for key in (*TERMS, "eval_mean_iou") for entry in log):
            raise InputError(f"{name}: has logged neither a loss nor a mean IoU; train for more than logging_steps")
    logged = {key for log in runs.values() for entry in log for key in entry}
    terms = [term for term in TERMS if term in logged]
    right = ["mean IoU"] * 2 if "eval_mean_iou" in logged else []
    rows = [[*terms[i : i + 2], "."][:2] + right for i in range(0, len(terms), 2)] or [right]
    figure = Figure(figsize=(1 + 2.5 * len(rows[0]), 1.2 + 2 * len(rows)), layout="constrained")
    axes, handles, joins = figure.subplot_mosaic(rows), [], False
    for index, (name, log) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        for term in terms:
            _draw_loss(axes[term], log, term, color)
        handles += _draw_scores(axes.get("mean IoU"), log, name, color)
        for step in _phase_ends(log):
            joins = True
            for one in axes.values():
                one.axvline(step, color=color if len(runs) > 1 else GRAY, zorder=1, **DOTTED)
    if joins:
        rounds = any("round" in entry for log in runs.values() for entry in log)
        label = "a round begins" if rounds else "unlabeled images join"
        handles.append(Line2D([], [], color=GRAY, label=label, **DOTTED))

    limits = [limit for one in axes.values() for limit in one.get_xlim()]
    for key, one in axes.items():
        one.set_title(TERMS.get(key, "mean IoU (%)"), loc="left", fontsize="medium")
        one.set(xlim=(min(limits), max(limits)), xlabel="step" if key in rows[-1] else None)
        if key in TERMS:
            one.set_ylim(bottom=0)
        else:
            one.yaxis.set_major_locator(MaxNLocator(integer=True))
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    for text in figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False).get_texts():
        text.set_parse_math(False)  # a name may have a dollar sign
    return save_figure(figure, path)


def _draw_loss(axes: Axes, log: Log, term: str, color: str) -> None:
    """Draws every logged value; many values are pale, below their mean over a fiftieth of the run."""
    steps, values = _series(log, term)
    window = max(1, len(values) // 50)
    if window > 1:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        steps, values = (np.convolve(series, np.full(window, 1 / window), mode="valid") for series in (steps, values))
    axes.plot(steps, values, color=color, linewidth=1.6)


def _draw_scores(axes: Axes | None, log: Log, run: str, color: str) -> list[Line2D]:
    """Draws the evaluated model as a full line, the other one dashed; returns the run's entries in the legend."""
    logged = {key for entry in log for key in entry}
    names = {"eval_mean_iou": run}
    if "eval_student_mean_iou" in logged:
        names = {"eval_mean_iou": f"{run}, EMA model", "eval_student_mean_iou": f"{run}, student"}
    elif "eval_teacher_mean_iou" in logged:
        names = {"eval_mean_iou": f"{run}, student", "eval_teacher_mean_iou": f"{run}, EMA model"}
    lines = []
    for (key, name), style in zip(names.items(), ("-", "--")):
        steps, values = _series(log, key)
        if len(steps):
            label = f"{name}: {100 * values[-1]:.1f} %"
            lines += axes.plot(steps, 100 * values, style, color=color, marker="o", markersize=3.5, label=label)
    return lines or [Line2D([], [], color=color, label=run)]


def _series(log: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of a logged quantity."""
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    return tuple(np.array(points, float).reshape(-1, 2).T)


def _phase_ends(log: Log) -> list[float]:
    """Returns the last step before each round; without rounds, that before the first loss of unlabeled images."""
    last = {entry["round"]: entry["step"] for entry in log if "round" in entry}
    if last:
        return [last[number] for number in sorted(last)[:-1]]
    steps = [entry["step"] for entry in log if "loss" in entry]
    joined = [entry["step"] for entry in log if "loss_c" in entry or "loss_sc" in entry]
    return [step for step in steps if step < min(joined)][-1:] if joined else []
