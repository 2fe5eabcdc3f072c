"""What a page shows of predictions: uploads in; pictures (H, W, 3), shares and tables of label maps (H, W) out."""

import html
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import CorruptFileError, read_image
from ..errors import InputError
from ..visualization.panels import colorize, error_map

LARGEST_SIDE = 2048  # a larger picture is made smaller
MOST_PIXELS = 100_000_000  # 300 MB in memory; a larger picture is refused
READABLE_SIDE = 768  # smaller ones are shown enlarged
DARK, LIGHT = (33, 37, 41), (255, 255, 255)


def read_upload(path: str | os.PathLike) -> tuple[np.ndarray, str]:
    """
    The picture (H, W, 3) in a file that somebody gave, uint8, upright and no larger than `LARGEST_SIDE`, and a
    sentence on what was done to it, empty where that is nothing. What is wrong with a file is an `InputError`.
    """
    name, content, notes = Path(path).name, Path(path).read_bytes(), []
    if not content:
        raise InputError(f"{name} is empty. Choose another file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is the limit
            with Image.open(io.BytesIO(content)) as image:  # only the header is read
                (width, height), is_several = image.size, getattr(image, "is_animated", False)
                if width * height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                if is_several and image.format != "MPO":  # a photograph with its preview
                    notes.append("The file holds several pictures, this is the first.")
            picture = read_image({"path": name, "bytes": content})
    except Image.DecompressionBombError:
        millions = MOST_PIXELS // 1_000_000
        raise InputError(f"{name} has more than {millions} million pixels. Choose a smaller picture.") from None
    except CorruptFileError as error:
        raise InputError(_unreadable(name)) from error
    except InputError:
        raise
    except Exception as error:  # whatever a damaged header makes of Pillow
        raise InputError(_unreadable(name)) from error
    height, width = picture.shape[:2]
    if max(width, height) > LARGEST_SIDE:
        image = Image.fromarray(picture)
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        picture = np.array(image)
        notes.append(f"The picture was made smaller, from {width}×{height} to {image.width}×{image.height} pixels.")
    return picture, " ".join(notes)


def _unreadable(name: str) -> str:
    return f"{name} cannot be read as a picture: it is damaged, incomplete or of another kind. Choose a JPEG or PNG."


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Small pictures (H, W, 3) and label maps (H, W) by a whole factor larger."""
    factor = max(1, READABLE_SIDE // max(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def numbered_map(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """
    A label map (H, W) in the colors of a palette (C, 3), [`enlarged`] where it is small, as (H, W, 3) uint8. The
    id of the class is written into each area that has room for it: not everybody tells all colors apart.
    """
    label = enlarged(label)
    image = Image.fromarray(colorize(label, palette))
    draw = ImageDraw.Draw(image)
    font_size = max(label.shape) / 26
    font = ImageFont.load_default(font_size)
    for index in np.unique(label).tolist():
        mask = np.pad(label == index, 1).astype(np.uint8)  # what is beyond the border is another area
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
                place = (left + x - 1, top + y - 1)
                draw.text(place, str(index), fill=ink(palette[index]), font=font, anchor="mm")
    return np.asarray(image)


def ink(color: Sequence[int]) -> tuple[int, int, int]:
    """What is read best on a color."""
    return DARK if np.dot(color, (0.299, 0.587, 0.114)) > 130 else LIGHT


def shares(label: np.ndarray, num_classes: int) -> np.ndarray:
    """The share of each class in a label map (H, W), as (C,) that adds up to 1."""
    return np.bincount(label.ravel(), minlength=num_classes) / label.size


def difference(first: np.ndarray, second: np.ndarray, picture: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of pixels in which two label maps (H, W) differ, and the pale picture with those in vermilion."""
    return float((first != second).mean()), error_map(first, second, picture)


def share_table(
    labels: Sequence[np.ndarray], id2label: Mapping[int, str], palette: np.ndarray, captions: Sequence[str]
) -> str:
    """
    HTML: the share of each class that occurs in label maps (H, W), a column for each of `captions`, the largest first;
    the other classes in one line below. Names are escaped.
    """
    columns = np.stack([shares(label, len(palette)) for label in labels])
    order = np.lexsort((np.arange(len(palette)), *-columns[::-1]))
    rows, absent = [], []
    for index, name in ((i, html.escape(id2label[i])) for i in order.tolist()):
        if not columns[:, index].any():
            absent.append(name)
            continue
        color, text = (f"#{bytes(c).hex()}" for c in (palette[index].tolist(), ink(palette[index])))
        cells = "".join(f"<td>{html.escape(percent(share))}</td>" for share in columns[:, index])
        rows.append(
            f'<tr><td><span class="swatch" style="background:{color};color:{text}">{index}</span></td>'
            f'<th scope="row">{name}</th>{cells}</tr>'
        )
    head = "".join(f'<th scope="col">{html.escape(caption)}</th>' for caption in captions)
    table = (
        '<table class="shares"><caption>Share of each class; the number is the one on the color map</caption>'
        f'<thead><tr><th scope="col">No.</th><th scope="col">Class</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return table + (f"<p>Not in this picture: {', '.join(absent)}.</p>" if absent else "")


def percent(share: float) -> str:
    """A share as it is read; what is there is never 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
