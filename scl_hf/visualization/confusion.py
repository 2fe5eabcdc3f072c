"""Draws the confusion matrix. Importing matplotlib takes a second: import this module where it is needed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ..errors import InputError
from ..files import replacing

GRAY = "#6c757d"
LARGEST_NUMBERED = 24  # classes; in a larger matrix numbers are too small to read


def plot_confusion_matrix(confusion_matrix: np.ndarray, id2label: Mapping[int, str], path: str | Path) -> Path:
    """Draws a matrix of pixels (C, C), row = label: each row in percent of the pixels of its class."""
    counts, size = np.asarray(confusion_matrix, float), len(id2label)
    pixels = counts.sum(axis=1)
    percent = 100 * counts / np.maximum(pixels, 1)[:, None]
    numbered = size <= LARGEST_NUMBERED
    side = max(4.5, size * (0.42 if numbered else 0.23))
    figure = Figure(figsize=(side * 1.2, side))
    axes = figure.add_subplot()
    # On a linear scale errors of a few percent would all look white.
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    ticks = [0, 1, 5, 10, 25, 50, 75, 100]
    figure.colorbar(image, label="% of the class's pixels", fraction=0.04, pad=0.02, ticks=ticks)
    names = [id2label[index] for index in range(size)]
    style = {"fontsize": "small", "parse_math": False}  # a name may have a dollar sign
    axes.set_xticks(range(size), names, rotation=90, **style)
    axes.set_yticks(range(size), [name if pixels[i] else f"{name} (absent)" for i, name in enumerate(names)], **style)
    for index in np.flatnonzero(pixels == 0):
        axes.get_yticklabels()[index].set_color(GRAY)
        axes.axhspan(index - 0.5, index + 0.5, facecolor="#e9ecef", edgecolor="#ced4da", hatch="///", linewidth=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#dee2e6", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="label")
    for row, column in np.argwhere(percent >= 0.5) if numbered else ():
        value = percent[row, column]
        color = "white" if value > 35 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize="x-small", color=color)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure to a file of a type that matplotlib knows."""
    path = check_figure_path(path)
    try:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=130, bbox_inches="tight", pad_inches=0.15)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return path


def check_figure_path(path: str | Path) -> Path:
    """Returns the path of a figure, whose suffix must be one that matplotlib knows."""
    path = Path(path)
    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: is not the name of an image; take one that ends with .png, .svg or .pdf")
    return path
