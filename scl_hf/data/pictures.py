"""Image and label files: opening them, and saying which one is wrong."""

import io
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..errors import InputError

IGNORE_INDEX = 255
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# What Pillow raises on a file that is cut off, damaged or no image at all.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; ids have to be as stored.
_STRETCHED = {"L;2": 85, "L;4": 17}

Source = str | os.PathLike | Mapping


class CorruptFileError(InputError):
    """
    A file is missing, damaged or not a picture: what `skip_corrupt` passes over in training.

    Args:
        message (`str`): One line that names the file.
        file (`str`, *optional*): The file; not known any more where the exception comes out of a DataLoader worker.
    """

    def __init__(self, message: str, file: str | None = None):
        super().__init__(message)
        self.file = file


def is_picture(name: str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Whether a file is one, judged by its name; hidden files are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def find_pictures(folder: str | os.PathLike, suffixes: Collection[str] = SUFFIXES) -> list[str]:
    """The paths within a folder of all pictures in it and in the folders below, but hidden ones; sorted."""
    found = []
    seen = set()  # links may lead back
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in files if is_picture(name, suffixes)]
    return sorted(found)


def check_files(paths: Iterable[str | os.PathLike]) -> list[int]:
    """
    Makes sure that all files exist and hold something. No file is opened.

    Args:
        paths (`Iterable[str]`): The files.

    Returns:
        `list[int]`: Their sizes in bytes.

    Raises:
        InputError: Names the first five files that are missing or empty, and their number.
    """
    sizes, bad = [], []
    for path in paths:
        try:
            size = os.stat(path).st_size
        except OSError:
            size = -1
        if size <= 0:
            bad.append(f"{path} ({'empty' if size == 0 else 'missing'})")
        sizes.append(size)
    if bad:
        more = ", …" if len(bad) > 5 else ""
        count = "1 file is" if len(bad) == 1 else f"{len(bad)} files are"
        raise InputError(f"{count} empty or missing: {', '.join(bad[:5])}{more}; copy or unpack them again")
    return sizes


def read_image(source: Source) -> np.ndarray:
    """
    Reads a picture, upright (EXIF orientation applied) and in RGB. Grey, palette, RGBA and 16-bit files are converted;
    of 16 bits the full range 0..65535 becomes 0..255.

    Args:
        source (`str` or `dict`): A path, or what a `datasets.Image(decode=False)` column gives: `{"path", "bytes"}`.

    Returns:
        `np.ndarray`: (H, W, 3) uint8.

    Raises:
        InputError: The file is missing, truncated, or not a picture.
    """
    pixels = _decode_plain_png(source)
    if pixels is not None:
        return pixels
    name, image = _open(source)
    # Turning would write all tags anew, and stumble over a bad one: what it needs stays with the picture.
    image.getexif()
    image.info.pop("exif", None)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(f"{name}: holds floating-point values, not a picture; save it with 8 or 16 bits a channel")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_label(source: Source, table: np.ndarray | None = None) -> np.ndarray:
    """
    Reads a label picture: one class id a pixel, from an 8-bit grey, palette (its indices) or 16-bit file.

    Args:
        source (`str` or `dict`): A path, or `{"path", "bytes"}`.
        table (`np.ndarray`, *optional*): (256,) or (65536,) int16, id on disk -> train id; 255 is ignored in training,
            -1 is an id that may not occur. Without a table the ids are returned as they are.

    Returns:
        `np.ndarray`: (H, W) uint8.

    Raises:
        InputError: The file is missing, truncated, or a colour picture; or it holds an id that may not occur (the
            message has the ids and their numbers of pixels).
    """
    name, image = _open(source, label=True)
    if image.mode in ("L", "P", "1"):
        ids = np.asarray(image).astype(np.uint8, copy=False) // _STRETCHED.get(image.info["rawmode"], 1)
    elif image.mode.startswith("I"):
        ids = np.asarray(image)
    else:
        raise InputError(
            f"{name}: is a colour picture (mode {image.mode}), but a label holds one class id a pixel; "
            "save it as 8-bit grey, 16-bit grey or palette PNG"
        )
    if table is None:
        table = np.arange(256, dtype=np.int16)
    known = table >= 0
    if ids.dtype == np.uint8:
        train_ids = cv2.LUT(ids, table[:256].astype(np.uint8))
        allowed = cv2.LUT(ids, known[:256].astype(np.uint8)).view(bool)
    else:
        inside = (ids >= 0) & (ids < len(table))
        ids_inside = np.where(inside, ids, 0)
        train_ids, allowed = table.astype(np.uint8).take(ids_inside), known.take(ids_inside) & inside
    if not allowed.all():
        raise InputError(_unknown_ids(name, ids[~allowed], table))
    return train_ids


def read_pair(row: Mapping, table: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Reads an image and its label and makes sure that they are of one size.

    Args:
        row (`dict`): A row with the columns `image` and `label`.
        table (`np.ndarray`, *optional*): See [`read_label`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The image, (H, W, 3) uint8, and its label, (H, W) uint8.

    Raises:
        InputError: One of them cannot be read, or their sizes differ (the message names both).
    """
    image, label = read_image(row["image"]), read_label(row["label"], table)
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{_name(row['label'])}: the label is {label.shape[1]}×{label.shape[0]} pixels, but its image "
            f"{_name(row['image'])} is {image.shape[1]}×{image.shape[0]}; give a label of the image's size"
        )
    return image, label


def _decode_plain_png(source: Source) -> np.ndarray | None:
    """A PNG of plain 8-bit colours, which OpenCV decodes in a sixth less time than Pillow; None of anything else."""
    content = source.get("bytes") if isinstance(source, Mapping) else None
    if content is None:
        try:
            content = Path(_name(source)).read_bytes()
        except OSError:
            return None
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[24:26] != b"\x08\x02" or b"eXIf" in content:
        return None
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)  # None if it is damaged


def _open(source: Source, label: bool = False) -> tuple[str, Image.Image]:
    name = _name(source)
    stored = source.get("bytes") if isinstance(source, Mapping) else None
    if stored is None and not os.path.isfile(name):
        raise CorruptFileError(f"{name}: no such file", name)
    try:
        with Image.open(name if stored is None else io.BytesIO(stored)) as image:
            if label:
                # Loading drops the layout on disk, and with it the number of bits.
                arguments = image.tile[0][3] if image.tile else None
                image.info["rawmode"] = arguments if isinstance(arguments, str) else None
            image.load()
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: has more pixels than Pillow opens ({error}); cut it into smaller ones") from error
    except _BROKEN as error:
        reason = "is not a picture" if isinstance(error, Image.UnidentifiedImageError) else f"cannot be read ({error})"
        message = f"{name}: {reason}; the file is damaged or incomplete, copy it again or remove it"
        raise CorruptFileError(message, name) from error
    return name, image


def _name(source: Source) -> str:
    if isinstance(source, Mapping):
        return str(source.get("path") or "a picture stored without a file name in the data set")
    return str(Path(source))


def _unknown_ids(name: str, unknown: np.ndarray, table: np.ndarray) -> str:
    values, counts = np.unique(unknown, return_counts=True)
    counted = zip(values[:5].tolist(), counts.tolist())
    listed = ", ".join(f"{value} ({count} {'pixel' if count == 1 else 'pixels'})" for value, count in counted)
    listed += ", …" if len(values) > 5 else ""
    classes = np.flatnonzero((table >= 0) & (table != IGNORE_INDEX))
    runs = [(run[0], run[-1]) for run in np.split(classes, np.flatnonzero(np.diff(classes) > 1) + 1)]
    known = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in runs[:8])
    known += ", …" if len(runs) > 8 else ""
    ignored = np.flatnonzero(table == IGNORE_INDEX)
    remedy = f", or give pixels without a class the id {ignored[-1]}" if len(ignored) else ""
    return (
        f"{name}: unknown class id {listed}; the classes have the ids {known}: correct the label{remedy} "
        "(in data of your own, label_map can name further ids)"
    )
