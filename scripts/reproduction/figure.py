"""Plots a table's results: scores over numbers of labels; or scores, differences to the baseline, gains of classes."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from scl_hf.visualization.confusion import GRAY, save_figure

from .labels import label_counts
from .report import signed_number
from .summary import Estimate, Summary

# Colors of Okabe and Ito, as in the curves of a run; blue is a gain
BLUE, ORANGE = "#0072B2", "#D55E00"
ROW_COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GAINS = LinearSegmentedColormap.from_list("gains", [ORANGE, "#F8F9FA", BLUE])


def plot_table(summary: Summary, title: str, path: Path) -> Path:
    """Plots mean IoU over the number of labels if the shares are such numbers, else three axes for each share."""
    counts = label_counts(summary.shares)
    figure = _plot_curves(summary, counts) if counts else _plot_rows(summary)
    several = any(len(summary.values(share, row)) > 1 for share in summary.shares for row in summary.rows)
    key = "mean over seeds, bars: 95 % interval, pale: single seeds" + ", bold: interval without 0" * (not counts)
    figure.suptitle(f"{title}\n{key if several else 'one seed'}", fontsize="medium", parse_math=False)
    return save_figure(figure, path)


def _plot_curves(summary: Summary, counts: Mapping[str, int]) -> Figure:
    """Draws a curve for each row, with its name beside its end."""
    rows = summary.rows
    counts = {share: number for share, number in counts.items() if any(summary.mean(share, row) for row in rows)}
    numbers = [*counts.values()]
    figure = Figure(figsize=(6.4 + max(map(len, rows)) * 0.085, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _frame(axes)
    axes.set_xscale("log")
    octaves = max(1.0, np.log2(numbers[-1] / numbers[0]))
    bases = [row for row in rows if row in summary.baseline.values()]
    colors = dict(zip([row for row in rows if row not in bases], cycle(ROW_COLORS)))
    ends, step = {}, 0.06 * octaves / max(3, len(rows))
    for index, row in enumerate(rows):
        # The intervals of rows, and the seeds of each, stand side by side.
        asides = 2 ** (step * (index - (len(rows) - 1) / 2 + np.array([0, 0.4])))
        style = "--" if row in bases[1:] else "-"
        ends[row] = _draw_curve(axes, summary, row, counts, asides, style, colors.get(row, GRAY))
    _limit_scores(axes, summary)
    ticks = numbers[:1]
    for number in numbers:  # those that have the space
        if np.log2(number / ticks[-1]) > 0.05 * octaves:
            ticks.append(number)
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axes.minorticks_off()
    axes.set(xlabel="number of labels", ylabel="mean IoU (%)")
    _name_curves(axes, ends, colors)
    return figure


def _draw_curve(
    axes: Axes, summary: Summary, row: str, counts: Mapping[str, int], asides: np.ndarray, style: str, color: str
) -> tuple[float, float] | None:
    """Draws means with their intervals and, beside them, the single values of a row; returns its last point."""
    points = []
    for share, number in counts.items():
        values = [*summary.values(share, row).values()]
        if mean := summary.mean(share, row):
            points.append((number * asides[0], mean.mean, 0 if np.isnan(mean.half) else mean.half))
        if len(values) > 1:
            x = [number * asides[1]] * len(values)
            axes.plot(x, values, "o", color=color, alpha=0.45, markersize=3.5, markeredgewidth=0)
    if not points:
        return None
    x, means, halves = zip(*points)
    style = {"fmt": "o" + style, "markersize": 5.5, "capsize": 3, "linewidth": 1.8, "elinewidth": 1}
    axes.errorbar(x, means, yerr=halves, color=color, **style)
    return x[-1], means[-1]


def _limit_scores(axes: Axes, summary: Summary) -> None:
    """Cuts off intervals that would leave the curves no height, such as those of two seeds."""
    scores = [
        value for share in summary.shares for row in summary.rows for value in summary.values(share, row).values()
    ]
    low, high = min(scores), max(scores)
    space = max(1.0, (high - low) / 2)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - space), min(top, high + space))


def _name_curves(axes: Axes, ends: Mapping[str, tuple[float, float] | None], colors: Mapping[str, str]) -> None:
    """Writes the names of the rows at the right, one below the other, each with a line from the end of its curve."""
    bottom, top = axes.get_ylim()
    right, free = axes.get_xlim()[1], top
    axes.set_xlim(right=right)
    for row, end in sorted(ends.items(), key=lambda item: -item[1][1] if item[1] else -bottom):
        y = min(free, end[1] if end else bottom)
        color = colors.get(row, GRAY)
        if end:
            axes.plot([end[0], right], [end[1], y], ":", color=color, linewidth=0.9)
        name = row if end else f"{row}: no result"
        where = {"textcoords": "offset points", "va": "center", "annotation_clip": False, "parse_math": False}
        axes.annotate(name, (right, y), (4, 0), color=color, **where)
        free = y - 0.05 * (top - bottom)


def _plot_rows(summary: Summary) -> Figure:
    """Draws three axes for each label share, with a line for each row of the table."""
    shares, rows = summary.shares, summary.rows
    classes = max((summary.classes[share] for share in shares), key=len)
    widths = [3.4, 3.0, max(1.5, 0.44 * len(classes))]
    label = max(map(len, rows)) * 0.085
    height = max(1.0, 0.36 * len(rows))
    figure = Figure(figsize=(sum(widths) + label + 0.6, (height + 0.55) * len(shares) + 2.0), layout="constrained")
    axes = figure.subplots(len(shares), 3, squeeze=False, sharey="row", width_ratios=widths)
    gains = np.abs([_class_gains(summary, share, classes) for share in shares])
    # At most 20 points, so that one class that appears from nothing does not turn the others white
    limit = float(np.clip(np.nanmax(gains, initial=0), 1, 20))
    for index, (share, (scores, gains, heat)) in enumerate(zip(shares, axes)):
        _draw_scores(scores, summary, share)
        _draw_gains(gains, summary, share)
        image = _draw_classes(heat, summary, share, classes, limit)
        scores.set_yticks(range(len(rows)), rows, parse_math=False)
        scores.set_ylim(len(rows) - 0.5, -0.5)
        scores.set_title(share, loc="left", fontweight="bold", fontsize="medium", parse_math=False)
        if index == 0:
            gains.set_title("difference to the baseline", loc="left", fontsize="medium")
            heat.set_title("gain of each class", loc="left", fontsize="medium")
        last = index == len(shares) - 1
        scores.set_xlabel("mean IoU (%)" if last else None)
        gains.set_xlabel("percentage points of mean IoU" if last else None)
        heat.tick_params(labelbottom=last)
    # One scale of differences, so that gains at different shares compare
    low, high = zip(*(gains.get_xlim() for gains in axes[:, 1]))
    for gains in axes[:, 1]:
        gains.set_xlim(min(low), max(high))
    bar = figure.colorbar(image, ax=list(axes[:, 2]), pad=0.02, fraction=0.05, aspect=12 * len(shares))
    bar.set_label("percentage points of IoU", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    return figure


def _draw_scores(axes: Axes, summary: Summary, share: str) -> None:
    _frame(axes)
    for y, row in enumerate(summary.rows):
        values = [*summary.values(share, row).values()]
        color = GRAY if row == summary.baseline[share] else BLUE
        _draw_estimate(axes, y, values, summary.mean(share, row), color)
        if not values:
            where = ("axes fraction", "data")
            axes.annotate("no result", (0.5, y), xycoords=where, ha="center", va="center", color=GRAY)


def _draw_gains(axes: Axes, summary: Summary, share: str) -> None:
    _frame(axes)
    axes.axvline(0, color=GRAY, linewidth=1)
    baseline = summary.baseline[share]
    base = summary.values(share, baseline) if baseline else {}
    for y, row in enumerate(summary.rows):
        if row == baseline:
            axes.plot(0, y, "o", color=GRAY, markersize=5)
            axes.annotate("baseline", (0, y), (6, 4), textcoords="offset points", color=GRAY, fontsize="small")
            continue
        own = summary.values(share, row)
        values = [own[seed] - base[seed] for seed in own if seed in base]
        gain = summary.gain(share, row)
        color = ORANGE if gain and gain.mean < 0 else BLUE
        _draw_estimate(axes, y, values, gain, color)
    axes.margins(x=0.12)


def _draw_estimate(axes: Axes, y: float, values: list[float], value: Estimate | None, color: str) -> None:
    """Draws a mean with its interval above the single values."""
    if value is None:
        return
    if len(values) > 1:
        axes.plot(values, [y + 0.22] * len(values), "o", color=color, alpha=0.35, markersize=3.5, markeredgewidth=0)
    half = 0 if np.isnan(value.half) else value.half
    axes.errorbar(value.mean, y, xerr=half, fmt="o", color=color, markersize=5.5, capsize=3, linewidth=1.6)


def _draw_classes(axes: Axes, summary: Summary, share: str, classes: list[str], limit: float) -> AxesImage:
    gains = _class_gains(summary, share, classes)
    image = axes.imshow(np.ma.masked_invalid(gains), cmap=GAINS, vmin=-limit, vmax=limit, aspect="auto")
    axes.set_facecolor("#e9ecef")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize="small", parse_math=False)
    axes.tick_params(length=0, labelleft=False)
    axes.set_xticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(summary.rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", left=False, bottom=False)
    axes.spines[:].set_visible(False)
    for y, row in enumerate(summary.rows):
        if row == summary.baseline[share]:
            middle = (len(classes) - 1) / 2
            axes.text(middle, y, "baseline", ha="center", va="center", color=GRAY, fontsize="small")
            continue
        for x, name in enumerate(classes):
            if gain := summary.gain(share, row, name):
                ink = "white" if abs(gain.mean) > 0.7 * limit else "black"
                weight = "bold" if gain.excludes_zero else "normal"
                text = signed_number(gain.mean, 0 if abs(gain.mean) >= 9.95 else 1)
                axes.text(x, y, text, ha="center", va="center", color=ink, fontsize="x-small", fontweight=weight)
    return image


def _class_gains(summary: Summary, share: str, classes: list[str]) -> np.ndarray:
    """Returns (rows, classes), NaN where there is no gain."""
    gains = np.full((len(summary.rows), len(classes)), np.nan)
    for y, row in enumerate(summary.rows):
        for x, name in enumerate(classes):
            if row != summary.baseline[share] and (gain := summary.gain(share, row, name)):
                gains[y, x] = gain.mean
    return gains


def _frame(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", which="both", length=0)
