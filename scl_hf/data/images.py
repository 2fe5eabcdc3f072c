"""Opens image files, and says which one is wrong."""

import contextlib
import io
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..errors import InputError, first_few, first_line

IGNORE_INDEX = 255
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# What Pillow raises on a file that is cut off, damaged or no image at all
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Source = str | os.PathLike | Mapping


@contextlib.contextmanager
def in_one_thread() -> Iterator[None]:
    """Turns OpenCV's threads off: they compete with the data loader's workers and do not survive their fork."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


class CorruptFileError(InputError):
    """A file is missing, damaged or no image; `skip_corrupt` skips it. From a worker it comes without `file`."""

    def __init__(self, message: str, file: str | None = None):
        super().__init__(message)
        self.file = file


def is_image(name: str, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Returns whether the name is that of an image and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def find_images(folder: str | os.PathLike, suffixes: Collection[str] = SUFFIXES) -> list[str]:
    """Returns the sorted paths within a folder of all images at any depth, without hidden ones."""
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link leads back
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in files if is_image(name, suffixes)]
    return sorted(found)


def check_files(paths: Iterable[str | os.PathLike]) -> list[int]:
    """Returns the sizes in bytes of files and folders of masks, which must exist and not be empty; none is opened."""
    sizes, bad = [], []
    for path in paths:
        try:
            status = os.stat(path)
            sizes.append(status.st_size)
            if stat.S_ISDIR(status.st_mode) and find_images(path):
                continue
            if not stat.S_ISREG(status.st_mode) or not status.st_size:
                bad.append(f"{path} ({'empty' if stat.S_ISREG(status.st_mode) else 'no file'})")
        except OSError:
            bad.append(f"{path} (missing)")
    if bad:
        count = "1 file is" if len(bad) == 1 else f"{len(bad)} files are"
        raise InputError(f"{count} empty or missing: {first_few(bad, 5)}; copy or unpack them again")
    return sizes


@in_one_thread()
def read_image(source: Source) -> np.ndarray:
    """Reads an image of any mode as (H, W, 3) uint8 in RGB, upright by EXIF; 16 bits are scaled to 8."""
    name, content = read_bytes(source)
    # OpenCV decodes a PNG of plain 8-bit colors in a sixth less time than Pillow
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:26] == b"\x08\x02" and b"eXIf" not in content:
        with contextlib.suppress(cv2.error):  # of a damaged one, Pillow says how
            if (image := cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)) is not None:
                return image
    image = open_image(name, content)
    image.getexif()
    image.info.pop("exif", None)  # exif_transpose would write the tags anew and fail at a bad one
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(f"{name}: holds floating-point values; save the image with 8 or 16 bits a channel")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_bytes(source: Source) -> tuple[str, bytes]:
    """Returns name and content of an image file, on disk or stored in a dataset."""
    name = name_of(source)
    if isinstance(source, Mapping) and source.get("bytes") is not None:
        return name, source["bytes"]
    if os.path.exists(name) and not os.path.isfile(name):  # reading a named pipe would wait for ever
        raise CorruptFileError(f"{name}: is no file but a folder, a pipe or a device; remove it", name)
    try:
        return name, Path(name).read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); copy it again" if os.path.isfile(name) else "no such file"
        raise CorruptFileError(f"{name}: {reason}", name) from error


def open_image(name: str, content: bytes) -> Image.Image:
    """Decodes a file; `info["rawmode"]` of the image says how its pixels are stored."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            arguments = image.tile[0][3] if image.tile else None  # loading drops it, and with it the number of bits
            image.info["rawmode"] = arguments if isinstance(arguments, str) else None
            image.load()
            return image
    except _BROKEN as error:
        reason = f"cannot be read ({first_line(error)})"
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "is not an image"
        elif isinstance(error, Image.DecompressionBombError):
            reason = f"has more pixels than are opened ({first_line(error)}), cut it up or else"
        message = f"{name}: {reason}; the file is damaged or incomplete, copy it again or remove it"
        raise CorruptFileError(message, name) from error


def name_of(source: Source) -> str:
    """Returns what messages call an image: its path, if it has one."""
    path = source.get("path") if isinstance(source, Mapping) else Path(source)
    return str(path or "an image that the dataset holds without a file name")
