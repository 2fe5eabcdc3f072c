"""Label maps in color, overlays, error maps, and sample predictions side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..data.normalization import Normalization

# An image narrower than the first is enlarged, one wider than the second is shrunk, by a whole factor.
READABLE_WIDTH, LARGEST_WIDTH = 360, 720
LARGEST_PANEL = 2880  # many columns share this width
FONT_SIZE = 16
MARGIN = 12
INK = (33, 37, 41)
OUTLINE = (173, 181, 189)
WRONG = (213, 94, 0)  # vermilion, which color-blind people see on gray


def colorize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns a label map (H, W) in the colors of a palette (C, 3): (H, W, 3) uint8, ignored pixels (255) black."""
    known = (label >= 0) & (label < len(palette)) | (label == 255)
    if not known.all():
        unknown = np.unique(label[~known]).tolist()
        raise ValueError(f"label ids {unknown} have no color in a palette of {len(palette)}.")
    colors = np.zeros((max(256, len(palette)), 3), np.uint8)
    colors[: len(palette)] = palette
    colors[255] = 0
    return colors[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Returns an image (H, W, 3) under `alpha` of the colors of its classes (H, W); ignored pixels show the image."""
    mixed = (1 - alpha) * image + alpha * colorize(label, palette)
    return np.where((label == 255)[..., None], image, np.rint(mixed).astype(np.uint8))


def error_map(prediction: np.ndarray, label: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns the errors of a prediction (H, W) as (H, W, 3): wrong vermilion, right pale gray, ignored black."""
    gray = image @ np.array([0.299, 0.587, 0.114])
    pale = np.rint(160 + gray[..., None] * 90 / 255).astype(np.uint8)
    errors = np.where((prediction != label)[..., None], np.array(WRONG, np.uint8), pale)
    return np.where((label == 255)[..., None], np.uint8(0), errors)


def panel(rows: list[list[tuple[str, np.ndarray]]], legend: Sequence[tuple[str, Sequence[int]]] = ()) -> Image.Image:
    """
    Draws rows of (caption, image) side by side on white, with a legend of (class name, RGB color) below. Images are
    (H, W, 3) uint8; one whole factor brings all of them to a readable width. A row without captions is lower.
    """
    images = [image for row in rows for _, image in row]
    num_columns = max(map(len, rows))
    widest, largest = max(image.shape[1] for image in images), min(LARGEST_WIDTH, LARGEST_PANEL // num_columns)
    enlarge, shrink = max(1, round(READABLE_WIDTH / widest)), math.ceil(widest / largest)
    cells = [[(caption, _resize(image, enlarge, shrink)) for caption, image in row] for row in rows if row]

    font = ImageFont.load_default(FONT_SIZE)
    columns = [max(row[i][1].width for row in cells if i < len(row)) for i in range(num_columns)]
    caption_heights = [sum(font.getmetrics()) + 4 if any(caption for caption, _ in row) else 0 for row in cells]
    image_heights = [max(image.height for _, image in row) for row in cells]
    width = sum(columns) + MARGIN * (len(columns) + 1)
    height = sum(caption_heights) + sum(image_heights) + MARGIN * (len(cells) + 1)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for row, caption_height, image_height in zip(cells, caption_heights, image_heights):
        left = MARGIN
        for (caption, image), column in zip(row, columns):
            draw.text((left, top), _shorten(caption, column, font), fill=INK, font=font)
            canvas.paste(image, (left, top + caption_height))
            left += column + MARGIN
        top += caption_height + image_height + MARGIN
    if legend:
        key = draw_legend(legend, width - 2 * MARGIN)
        canvas = ImageOps.expand(canvas, (0, 0, 0, key.height - MARGIN), "white")
        canvas.paste(key, (0, height - MARGIN))
    return canvas


def comparison_panel(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    id2label: Mapping[int, str],
    palette: np.ndarray,
) -> Image.Image:
    """
    Draws predictions of several checkpoints, as in the paper's Figure 4: the image (H, W, 3), a column for each
    checkpoint with its [`error_map`] below, the ground truth (H, W), and a legend of the classes that occur.
    """
    rows, occurring = [], set()
    for image, label, *guesses in zip(images, labels, *predictions.values(), strict=True):
        columns = [(name, colorize(guess, palette)) for name, guess in zip(predictions, guesses)]
        errors = [(_share_wrong(guess, label), error_map(guess, label, image)) for guess in guesses]
        blank = ("", np.full_like(image, 255))
        rows.append([("image", image), *columns, ("ground truth", colorize(label, palette))])
        rows.append([blank, *errors, blank])
        occurring.update(*(np.unique(ids).tolist() for ids in (label, *guesses)))
    legend = [(id2label[i], palette[i]) for i in sorted(occurring - {255})]
    return panel(rows, legend + [("ignored", (0, 0, 0))] * (255 in occurring))


def training_panel(
    examples: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    last_pair: Mapping[str, torch.Tensor] | None,
    normalization: Normalization,
    palette: np.ndarray,
    id2label: Mapping[int, str],
    evaluated_name: str,
) -> Image.Image:
    """
    Draws sample predictions of a model in training: for a few images (`pixel_values` (3, H, W), label and prediction
    (H, W) of each, on the CPU), and below them `image`, `pseudo_label`, `student` and `valid` of its last mixed image.
    """
    rows = []
    for pixel_values, label, prediction in examples:
        image, truth = normalization.to_image(pixel_values), colorize(label.numpy(), palette)
        guess = colorize(prediction.numpy(), palette)
        rows.append([("image", image), ("label", truth), (f"prediction ({evaluated_name})", guess)])
    if last_pair is not None:
        padding, names = ~last_pair["valid"], ("pseudo_label", "student")
        maps = (last_pair[name].masked_fill(padding, 255).cpu().numpy() for name in names)
        pseudo_label, student = (colorize(ids, palette) for ids in maps)
        image = ("unlabeled, CutMix", normalization.to_image(last_pair["image"]))
        rows.append([image, ("pseudo-label (teacher)", pseudo_label), ("prediction (student)", student)])
    return panel(rows, legend=[(id2label[i], color) for i, color in enumerate(palette)])


def draw_legend(classes: Sequence[tuple[str, Sequence[int]]], width: int = LARGEST_WIDTH) -> Image.Image:
    """Draws names of classes beside their colors, row after row, on white with a margin around `width`."""
    font = ImageFont.load_default(FONT_SIZE)
    line = sum(font.getmetrics())
    swatch = line + 6
    entry = min(width, math.ceil(max(font.getlength(name) for name, _ in classes)) + swatch + 8 + 2 * MARGIN)
    # Rows as even as the width allows: 11 entries of which 9 fit in a row stand as 6 + 5.
    per_row = math.ceil(len(classes) / math.ceil(len(classes) / (width // entry)))
    canvas = Image.new("RGB", (width, math.ceil(len(classes) / per_row) * (line + 8)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (name, color) in enumerate(classes):
        left, top = index % per_row * entry, index // per_row * (line + 8)
        draw.rectangle((left, top + 1, left + swatch, top + line), fill=tuple(map(int, color)), outline=OUTLINE)
        draw.text((left + swatch + 8, top), _shorten(name, entry - swatch - 8, font), fill=INK, font=font)
    return ImageOps.expand(canvas, MARGIN, "white")


def _share_wrong(prediction: np.ndarray, label: np.ndarray) -> str:
    wrong = (prediction != label)[label != 255]
    return f"{100 * wrong.mean():.1f} % wrong (orange)" if wrong.size else "no labeled pixel"


def _resize(image: np.ndarray, enlarge: int, shrink: int) -> Image.Image:
    image = Image.fromarray(image)
    return image.reduce(shrink) if shrink > 1 else ImageOps.scale(image, enlarge, Image.Resampling.NEAREST)


def _shorten(text: str, width: int, font) -> str:
    """Cuts a text in the middle: names of checkpoints differ at their ends."""
    kept, short = len(text), text
    while kept and font.getlength(short) > width:
        kept -= 1
        short = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
    return short
