"""Opens image files, and says which one is wrong."""

import contextlib
import functools
import io
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import datasets
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from ..errors import InputError, check_field, counted, first_few, first_line

IGNORE_INDEX = 255
INPUT_FIELDS = ("value_range", "bands")  # of a recipe, an image processor and [`InputImage`]

# Formats that Pillow registers but that are no pictures, or that it opens only with other programs or on Windows
_NOT_OPENED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_HEIF = {".heic", ".heif", ".hif"}  # by pillow-heif
PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TAGS = (256, 257, 258, 262, 277, 284, 339, 338, 274)  # width to kind of values, as read below; alpha, orientation
_PNM = (b"P5", b"P6")
_JPEG_2000 = (b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")

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


@dataclass
class InputImage(datasets.Image):
    """
    The feature of a column of images of other than 8 bits or three bands: a `datasets.Image` that decodes to RGB of 8.

    Args:
        value_range (`list[float]`, *optional*):
            The values in images of more than 8 bits, or of floating point, that become black and white; those beyond
            are clipped. By default 16 bits are scaled from 0 … 65535, and floating point is refused.
        bands (`list[int]`, *optional*):
            The three bands, counted from 0, that become red, green and blue. By default an image has 1 or 3.
    """

    value_range: list[float] = field(default_factory=list)
    bands: list[int] = field(default_factory=list)
    _type: str = field(default="InputImage", init=False, repr=False)

    def __post_init__(self):
        limits, bands = self.value_range, self.bands
        rising = not limits or len(limits) == 2 and limits[0] < limits[1]
        check_field(self, "value_range", rising, "two numbers, black and white, the smaller one first")
        check_field(self, "bands", not bands or len(bands) == 3 and min(bands) >= 0, "three numbers, from 0")

    @classmethod
    def of(cls, owner: object) -> "InputImage | None":
        """Returns the feature that the fields of a recipe or of an image processor describe, if they do."""
        given = {name: value for name in INPUT_FIELDS if (value := getattr(owner, name, None))}
        return cls(decode=False, **given) if given else None

    @property
    def given(self) -> dict[str, list]:
        """The fields that are not left out."""
        return {name: value for name in INPUT_FIELDS if (value := getattr(self, name))}

    def decode_example(self, value: dict, token_per_repo_id: dict | None = None) -> Image.Image:
        return Image.fromarray(read_image(value, self))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Returns the suffixes, in small letters, of all images that Pillow opens, and of HEIC."""
    formats = {*Image.registered_extensions().values()} & {*Image.OPEN, "MPO"} - _NOT_OPENED
    return frozenset(_HEIF | {suffix for suffix, name in Image.registered_extensions().items() if name in formats})


def is_image(name: str, suffixes: Collection[str] | None = None) -> bool:
    """Returns whether the name is that of an image, or has one of `suffixes`, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in (suffixes or image_suffixes())


def find_images(folder: str | os.PathLike, suffixes: Collection[str] | None = None) -> list[str]:
    """Returns the sorted paths within a folder of all images at any depth, without hidden ones."""
    found = [os.path.join(*parts, name) for parts, names in walk(folder) for name in names if is_image(name, suffixes)]
    return sorted(found)


def walk(root: str | os.PathLike) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the names of the folders that lead to each folder below `root`, and its sorted files; nothing hidden."""
    seen = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if real not in seen and name[0] != ".")
        if real not in seen:  # else a link leads back
            below = os.path.relpath(parent, root)
            yield [] if below == "." else below.split(os.sep), sorted(name for name in files if name[0] != ".")
        seen.add(real)


def files_of(path: str) -> list[str]:
    """Returns the file at a path or, if it is a folder, such as of a mask for each instance, the images in it."""
    return [os.path.join(path, name) for name in find_images(path)] or [path] if os.path.isdir(path) else [path]


def check_files(paths: Iterable[str | os.PathLike]) -> list[int]:
    """Returns the sizes in bytes of files and folders of masks, which must exist and not be empty; none is opened."""
    sizes, bad = [], []
    for path in paths:
        try:
            status = os.stat(path)
            sizes.append(status.st_size)
            is_file = stat.S_ISREG(status.st_mode)
            if not (status.st_size if is_file else find_images(path)):
                bad.append(f"{path} ({'empty' if is_file else 'no file'})")
        except OSError:
            bad.append(f"{path} (missing)")
    if bad:
        count = "1 file is" if len(bad) == 1 else f"{len(bad)} files are"
        raise InputError(f"{count} empty or missing: {first_few(bad, 5)}; copy or unpack them again")
    return sizes


@in_one_thread()
def read_image(source: Source, form: datasets.Image | None = None) -> np.ndarray:
    """
    Reads an image of any mode as (H, W, 3) uint8 in RGB, upright by EXIF; an [`InputImage`] says how values of more
    than 8 bits are scaled, and which bands are taken.
    """
    name, content = read_bytes(source)
    form = form if isinstance(form, InputImage) else InputImage()
    # OpenCV decodes a PNG of plain 8-bit colors in a sixth less time than Pillow
    if content[:8] == PNG and content[24:26] == b"\x08\x02" and not form.bands and b"eXIf" not in content:
        with contextlib.suppress(cv2.error):  # of a damaged one, Pillow says how
            if (image := cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)) is not None:
                return image
    values = _read_stored(name, content, form, bool(form.value_range))
    if values is None:
        image = open_image(name, content)
        image.getexif()
        image.info.pop("exif", None)  # exif_transpose would write the tags anew and fail at a bad one
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if not form.bands and image.mode[0] not in "IF":
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
        is_stored = image.mode[0] in "IF" or image.mode in ("L", "LA", "RGBA")
        values = np.asarray(image if is_stored else image.convert("RGB"))
    return _to_rgb(name, values, form)


def describe_values(images: Iterable[Source], form: datasets.Image | None = None) -> str | None:
    """Returns a line if images of 16 bits, a few, seem to need `value_range`; raises where [`read_image`] would."""
    form = form if isinstance(form, InputImage) else InputImage()
    ends = []
    for source in images:
        with contextlib.suppress(CorruptFileError):
            name, content = read_bytes(source)
            # PGM and PPM say themselves which value is white.
            deep = not form.value_range and not content.startswith(_PNM)
            values = _read_stored(name, content, form, deep)
            if values is None and deep and (image := open_image(name, content)).mode[0] in "IF":
                values = np.asarray(image)
            if values is not None and values.dtype != np.uint8 and deep:
                _to_rgb(name, values, form)
                ends += [int(values.min()), int(values.max())]
    if not ends or max(ends) >= 1 << 14:
        return None
    return (
        f"images are of 16 bits, but the values seen in {len(ends) // 2} of them are {min(ends)} to {max(ends)}, "
        f"nearly black: {_line_to_write(min(ends), max(ends))}"
    )


def exif_orientation(source: Source) -> int:
    """Returns the EXIF orientation of an image, 1 where it has none; from 5 on, width and height are swapped."""
    content, found = read_bytes(source)[1], [1]
    with contextlib.suppress(*_BROKEN):
        found = _tiff_tags(content).get(274) or [Image.open(io.BytesIO(content)).getexif().get(274)]
    return found[0] if found[0] in range(1, 9) else 1


def _tiff_tags(content: bytes) -> dict[int, tuple[int, ...]]:
    """Returns the `_TAGS` of the first image of a TIFF, also of one that Pillow does not open; none of other files."""
    if content[:4] in _TIFF:
        with contextlib.suppress(*_BROKEN):
            tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[:4] else 8])
            stream = io.BytesIO(content)
            stream.seek(tags.next)
            tags.load(stream)
            values = {tag: np.ravel(tags[tag]).tolist() for tag in _TAGS if tag in tags}
            return {tag: tuple(each) for tag, each in values.items() if each and {*map(type, each)} == {int}}
    return {}


def _read_stored(name: str, content: bytes, form: InputImage, deep: bool) -> np.ndarray | None:
    """Returns values (H, W[, bands]), upright, of a file of which Pillow drops bands or (`deep`) bits; else None."""
    if tags := _tiff_tags(content):
        return _read_tiff(name, content, tags, form, deep)
    if deep and (content[24:25] == b"\x10" if content[:8] == PNG else content.startswith((*_PNM, *_JPEG_2000))):
        values = _decode(content)
        if values is not None and values.dtype != np.uint8:
            values = values if form.bands or values.ndim == 2 else values[..., :3]  # without alpha
            return _upright(values, exif_orientation({"bytes": content}))
    return None


def _read_tiff(name: str, content: bytes, tags: Mapping, form: InputImage, deep: bool) -> np.ndarray | None:
    width, height, bits, photometric, samples, planes, kind = (tags.get(tag, (1,))[0] for tag in _TAGS[:7])
    if photometric not in (0, 1, 2):  # of a palette, CMYK, …
        return None
    has_alpha = samples in (2, 4) and bits == 8 and tags.get(338) in ((1,), (2,))
    if samples not in (1, 3) and not has_alpha and not form.bands:
        raise InputError(f"{name}: has {samples} bands; {_bands_to_write(samples)}")
    if bits <= 8 and (samples < 3 or photometric == 2) and (samples in (1, 3) or has_alpha):
        return None
    if (samples, photometric, bits) == (4, 2, 8) and 338 not in tags:  # Pillow reads all four, as OpenCV writes them
        return None
    if samples == 1 and (bits == 32 or bits <= 16 and kind < 3):
        return None
    if (samples, photometric, planes, bits, kind, deep) == (3, 2, 1, 16, 1, False):
        return None
    if bits % 16 == 0 and planes == 1 and (samples == 1 or photometric == 2 and samples in (3, 4)):
        if (values := _decode(content)) is not None:
            return values  # OpenCV turns a TIFF upright
    try:
        import tifffile
    except ImportError:
        raise InputError(f"{name}: is a TIFF of {samples} bands of {bits} bits; pip install tifffile") from None
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            values = file.pages.first.asarray()
        values = np.moveaxis(values, 0, -1) if planes == 2 and samples > 1 else values
        if values.shape != (height, width, samples)[: values.ndim] or values.ndim != (2 if samples == 1 else 3):
            raise ValueError(f"it holds {values.shape} values, but says {height}×{width}×{samples}")
    except Exception as error:  # a damaged file may raise anything
        if "imagecodecs" in str(error):
            problem = f"is compressed so that it needs one more package ({first_line(error)})"
            raise InputError(f"{name}: {problem}; pip install imagecodecs") from None
        raise _damaged(name, error) from error
    return _upright(values, tags.get(274, (1,))[0])


def _decode(content: bytes) -> np.ndarray | None:
    """Decodes a file with OpenCV, its values as stored; None if it cannot."""
    with contextlib.suppress(cv2.error):
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None and values.ndim == 3:  # blue comes first
            values = values[..., ::-1] if values.shape[2] == 3 else values[..., [2, 1, 0, 3]]
        return values


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns values (H, W, …) by an EXIF orientation."""
    flipped = {2: 1, 3: (0, 1), 4: 0, 5: (), 6: 1, 7: (0, 1), 8: 0}
    if orientation not in flipped:
        return values
    return np.flip(values.swapaxes(0, 1) if orientation > 4 else values, flipped[orientation])


def _to_rgb(name: str, values: np.ndarray, form: InputImage) -> np.ndarray:
    """Returns (H, W, 3) uint8 of values (H, W) or (H, W, bands) of any type."""
    values = values[..., None] if values.ndim == 2 else values
    count = values.shape[2]
    if form.bands and max(form.bands) >= count:
        held = counted(count, "band")
        raise InputError(f"{name}: bands names {max(form.bands)}, but it has {held}; {_bands_to_write(count)}")
    values = values[..., form.bands] if form.bands else values
    if form.value_range and values.dtype != np.uint8:
        low, high = form.value_range
        values = np.nan_to_num((values.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).round()
    elif values.dtype != np.uint8:
        low, high = np.nanmin(values), np.nanmax(values)
        if values.dtype.kind == "f" or low < 0 or high > 65535:
            what = "floating-point values" if values.dtype.kind == "f" else "values"
            line = f"{_line_to_write(low, high)}, or save the image with 8 bits"
            raise InputError(f"{name}: holds {what} from {low:g} to {high:g}; {line}")
        # Of colors Pillow takes the high byte
        values = values >> 8 if count == 3 else (values.astype(np.int64) * 255 + 32767) // 65535
    return np.array(np.broadcast_to(values.astype(np.uint8), (*values.shape[:2], 3)))


def _line_to_write(low: float, high: float) -> str:
    """Returns the line for values that lie in this range."""
    tops = (1, 255) if isinstance(high, np.floating) else (255, 1023, 4095, 10000, 16383, 65535)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    limits = f"{low:g}, {high:g}" if top is None else f"0, {top}"
    return f"write value_range: [{limits}] (the values that become black and white)"


def _bands_to_write(count: int) -> str:
    first = f"[{', '.join(str(min(band, count - 1)) for band in range(3))}]"
    return f"write bands: {first} (or others, counted from 0) to take three of them"


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
        if isinstance(error, Image.UnidentifiedImageError) and content[4:8] == b"ftyp" and "HEIF" not in Image.OPEN:
            _register_heif(name)
            return open_image(name, content)
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> CorruptFileError:
    reason = f"cannot be read ({first_line(error)})"
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "is not an image"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"has more pixels than are opened ({first_line(error)}), cut it up or else"
    return CorruptFileError(f"{name}: {reason}; the file is damaged or incomplete, copy it again or remove it", name)


def _register_heif(name: str) -> None:
    """Has Pillow open HEIC."""
    try:
        import pillow_heif
    except ImportError:
        raise InputError(f"{name}: is a HEIC image, which Pillow opens after pip install pillow-heif") from None
    pillow_heif.register_heif_opener()


def name_of(source: Source) -> str:
    """Returns what messages call an image: its path, if it has one."""
    path = source.get("path") if isinstance(source, Mapping) else Path(source)
    return str(path or "an image that the dataset holds without a file name")
