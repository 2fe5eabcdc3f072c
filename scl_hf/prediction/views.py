"""Reads uploads; draws label maps (H, W) as images (H, W, 3) and as an HTML table."""

import html
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import CorruptFileError, InputImage, read_image
from ..errors import InputError
from ..visualization.panels import INK, colorize

LARGEST_SIDE = 2048  # a larger image is shrunk
MOST_PIXELS = 100_000_000  # 300 MB in memory; a larger image is refused
READABLE_SIDE = 768  # smaller ones are shown enlarged


def read_upload(path: str | os.PathLike, form: InputImage | None = None) -> tuple[np.ndarray, str]:
    """Reads an uploaded image (H, W, 3) uint8, upright, at most `LARGEST_SIDE` large; and says what was changed."""
    name, content, notes = Path(path).name, Path(path).read_bytes(), []
    if not content:
        raise InputError(f"{name} is empty. Choose another file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is the limit
            with Image.open(io.BytesIO(content)) as header:
                if header.width * header.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                if getattr(header, "is_animated", False) and header.format != "MPO":  # a photograph with its preview
                    notes.append("The file holds several images, this is the first.")
            image = read_image({"path": name, "bytes": content}, form)
    except Image.DecompressionBombError:
        millions = MOST_PIXELS // 1_000_000
        raise InputError(f"{name} has more than {millions} million pixels. Choose a smaller image.") from None
    except Exception as error:  # Pillow raises anything on a damaged header
        if isinstance(error, InputError) and not isinstance(error, CorruptFileError):
            raise
        problem = "it is damaged, incomplete or of another kind"
        raise InputError(f"{name} cannot be read as an image: {problem}. Choose a JPEG or PNG.") from error
    height, width = image.shape[:2]
    if max(width, height) > LARGEST_SIDE:
        small = Image.fromarray(image)
        small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        image = np.array(small)
        notes.append(f"The image was shrunk from {width}×{height} to {small.width}×{small.height} pixels.")
    return image, " ".join(notes)


def enlarged(image: np.ndarray) -> np.ndarray:
    """Enlarges small images (H, W, 3) and label maps (H, W) by a whole factor."""
    factor = max(1, READABLE_SIDE // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def numbered_map(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colors a label map (H, W), enlarged if small, and writes the class id into each area that has room for it."""
    label = enlarged(label)
    image = Image.fromarray(colorize(label, palette))
    draw = ImageDraw.Draw(image)
    font_size = max(label.shape) / 26
    font = ImageFont.load_default(font_size)
    for index in np.unique(label).tolist():
        mask = np.pad(label == index, 1).astype(np.uint8)  # the border of the image is a border of the area
        number, areas, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        distances = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        radius = 0.25 * font_size * (1 + len(str(index)))
        for area in range(1, number):
            left, top, width, height, _ = stats[area]
            if min(width, height) < 2 * radius:
                continue
            box = np.s_[top : top + height, left : left + width]
            inside = np.where(areas[box] == area, distances[box], 0)
            y, x = np.unravel_index(inside.argmax(), inside.shape)
            if inside[y, x] >= radius:
                center = (left + x - 1, top + y - 1)
                draw.text(center, str(index), fill=text_color(palette[index]), font=font, anchor="mm")
    return np.asarray(image)


def text_color(background: Sequence[int]) -> tuple[int, int, int]:
    """Returns dark or light, whichever is read better on the background."""
    return INK if np.dot(background, (0.299, 0.587, 0.114)) > 130 else (255, 255, 255)


def share_table(
    labels: Sequence[np.ndarray], id2label: Mapping[int, str], palette: np.ndarray, captions: Sequence[str]
) -> str:
    """Returns HTML: each class's share in label maps (H, W), the largest first; absent classes in a line below."""
    columns = np.stack([np.bincount(label.ravel(), minlength=len(palette)) / label.size for label in labels])
    order = np.lexsort((np.arange(len(palette)), *-columns[::-1]))
    lines, absent = [], []
    for index in order.tolist():
        name = html.escape(id2label[index])
        if not columns[:, index].any():
            absent.append(name)
            continue
        color, text = (f"#{bytes(c).hex()}" for c in (palette[index].tolist(), text_color(palette[index])))
        swatch = f'<span class="swatch" style="background:{color};color:{text}">{index}</span>'
        cells = "".join(f"<td>{html.escape(percent(share))}</td>" for share in columns[:, index])
        lines.append(f'<tr><td>{swatch}</td><th scope="row">{name}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{html.escape(caption)}</th>' for caption in ("No.", "Class", *captions))
    return (
        '<table class="shares"><caption>Share of each class; the number is the one on the color map</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        + (f"<p>Not in this image: {', '.join(absent)}.</p>" if absent else "")
    )


def percent(share: float) -> str:
    """Returns a share in percent; one above 0 is never shown as 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
