"""Draws what a dataset looks like as it was read. Importing matplotlib takes a second: import this where needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from .confusion import GRAY, save_figure
from .panels import INK, overlay

WIDTH = 12  # inches
SIDE = 480  # pixels; smaller images are enlarged to about this, by a whole factor
MOST_BARS = 30
IGNORED = 255
TEXT, ALARM = tuple(np.divide(INK, 255)), "#d55e00"

Sample = tuple[str, np.ndarray, np.ndarray | None]  # name, image (H, W, 3) and label (H, W)


def plot_overview(
    labeled: Sequence[Sample],
    unlabeled: Sequence[Sample],
    id2label: Mapping[int, str],
    palette: np.ndarray,
    shares: np.ndarray,
    path: str | Path,
) -> Path:
    """
    Draws examples with their labels over them, unlabeled images (None as label), and how often labels show each class:
    `shares` (2, 256) of the pixels and of the labels those that show a train id; 255 is ignored.
    """
    parts = []  # (height in inches, draws it)
    for heading, samples, most in (
        ("labels over images; classes in the colors of the bars below, ignored pixels hatched", labeled, 3),
        ("unlabeled", unlabeled, 6),
    ):
        if samples:
            drawn = [(name, _draw(image, label, palette)) for name, image, label in samples]
            aspect = min(1.6, np.median([image.shape[0] / image.shape[1] for _, image in drawn]))
            columns = 6 if aspect > 1.2 else most
            rows = -(-len(samples) // columns)
            height = rows * (WIDTH / columns * aspect + 0.3) + 0.4
            parts.append((height, lambda part, args=(heading, drawn, rows, columns): _plot_samples(part, *args)))
    if len(labeled):
        order = np.argsort(-shares[0, : len(id2label)], kind="stable")[:MOST_BARS]
        ids = [*np.sort(order).tolist(), *[IGNORED] * bool(shares[0, IGNORED])]
        height = 0.23 * len(ids) + 0.8
        parts.append((height, lambda part: _plot_bars(part, ids, id2label, palette, shares)))
    heights = [height for height, _ in parts]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    for part, (_, plot) in zip(np.ravel(figure.subfigures(len(parts), 1, height_ratios=heights)), parts):
        plot(part)
    return save_figure(figure, path)


def _draw(image: np.ndarray, label: np.ndarray | None, palette: np.ndarray) -> np.ndarray:
    """Draws a label (H, W) over an image (H, W, 3): tinted, borders in full color, ignored pixels dark and hatched."""
    factor = max(1, SIDE // max(image.shape[:2]))
    image = image.repeat(factor, 0).repeat(factor, 1)
    if label is None:
        return image
    label = label.repeat(factor, 0).repeat(factor, 1)
    borders = np.zeros(label.shape, bool)
    for lines, ids in (borders, label), (borders.T, label.T):
        steps = ids[1:] != ids[:-1]
        lines[1:] |= steps
        lines[:-1] |= steps
    pale = (image + image @ np.array([0.299, 0.587, 0.114])[:, None]) / 2  # colors of the image would mix with others
    drawn = np.where(borders[..., None], overlay(image, label, palette, 1), overlay(pale, label, palette, 0.4))
    stripes = np.add.outer(*map(np.arange, label.shape)) % 10 < 3
    darkened = np.where(stripes[..., None], 0, image // 2)
    return np.where((label == IGNORED)[..., None], darkened, drawn).astype(np.uint8)


def _plot_samples(
    part: SubFigure, heading: str, samples: Sequence[tuple[str, np.ndarray]], rows: int, columns: int
) -> None:
    part.suptitle(heading, x=0.01, ha="left", fontsize="medium", color=TEXT)
    width = 150 // columns  # letters
    for axes, (name, image) in zip(part.subplots(rows, columns, squeeze=False).flat, samples):
        axes.imshow(image)
        short = name if len(name) <= width else f"{name[: width // 3]}…{name[-width + width // 3 + 1 :]}"
        axes.set_title(short, loc="left", fontsize="x-small", color=GRAY, pad=3, parse_math=False)
    for axes in part.axes:
        axes.set_axis_off()


def _plot_bars(
    part: SubFigure, ids: Sequence[int], id2label: Mapping[int, str], palette: np.ndarray, shares: np.ndarray
) -> None:
    left, right = part.subplots(1, 2, sharey=True)
    names = ["(ignored)" if i == IGNORED else id2label[i] for i in ids]
    hidden = len(id2label) - sum(i != IGNORED for i in ids)
    _plot_shares(left, "share of the pixels, %", ids, palette, shares[0])
    _plot_shares(right, "share of the labels that show it, %", ids, palette, shares[1])
    left.set_yticks(range(len(ids)), names, fontsize="small", parse_math=False)
    left.invert_yaxis()
    if hidden:
        part.supxlabel(f"and {hidden} more classes, each in fewer pixels", x=0.01, ha="left", fontsize="small")


def _plot_shares(axes: Axes, title: str, ids: Sequence[int], palette: np.ndarray, shares: np.ndarray) -> None:
    colors = ["white" if i == IGNORED else palette[i] / 255 for i in ids]
    bars = axes.barh(range(len(ids)), 100 * shares[ids], color=colors, edgecolor=TEXT, linewidth=0.5)
    texts = [_percent(shares[i]) if shares[i] else "none: no label shows it" for i in ids]
    for bar, text, i in zip(bars, axes.bar_label(bars, texts, padding=3, fontsize="x-small"), ids):
        bar.set_hatch("////" if i == IGNORED else None)
        text.set_color(TEXT if shares[i] else ALARM)
    axes.set_title(title, loc="left", fontsize="small", color=TEXT)
    axes.set_xlim(0, 115 * max(shares[ids]))
    axes.margins(y=0.01)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _percent(share: float) -> str:
    return "< 0.01" if share < 1e-4 else f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.0f}"
