"""What the values in label files mean, and label files read as train ids."""

import contextlib
import functools
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import datasets
import numpy as np
from datasets.features.features import register_feature
from PIL import Image

from ..errors import InputError, counted, first_few
from .images import (
    IGNORE_INDEX,
    PNG,
    InputImage,
    Source,
    exif_orientation,
    files_of,
    in_one_thread,
    name_of,
    open_image,
    read_bytes,
    read_image,
)

NUM_IDS = 65536  # of 16 bits; larger ones are looked up one by one
LARGEST_ID = 2**31 - 1
MANY_VALUES = 8  # unknown ones in a label: it was smoothed, or is no label

# Pillow stretches gray PNGs of 2 and 4 bits to 0..255; ids have to be as stored.
_STRETCHED = {"L;2": 85, "L;4": 17}


@dataclass
class LabelImage(datasets.Image):
    """
    The feature of a column of labels: a `datasets.Image` that knows what the values in it mean and decodes to train
    ids.

    Args:
        names (`list[str]`): The classes in the order of their train ids 0, 1, ….
        train_ids (`dict[int | str, int]`):
            Value in a label file -> train id, or 255 where pixels are ignored. A value is an id, a range of ids
            `"1-65535"` or a color `"#ff0000"`. No other value may occur.
    """

    names: list[str] = field(default_factory=list)
    train_ids: dict[int | str, int] = field(default_factory=dict)
    _type: str = field(default="LabelImage", init=False, repr=False)

    def __post_init__(self):  # JSON's keys are text
        self.train_ids = {int(key) if str(key).isdigit() else key: value for key, value in self.train_ids.items()}

    def __getstate__(self) -> dict:  # without the tables
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def of(
        cls, id2label: Mapping[int, str], label_map: Mapping[int, int] | None = None, ignore_index: int = IGNORE_INDEX
    ) -> "LabelImage":
        """
        Returns the feature, not decoded, of labels with these classes.

        Args:
            id2label (`dict[int, str]`): Train id 0, 1, … -> name.
            label_map (`dict[int, int]`, *optional*):
                Id in a label file -> train id, or 255 where pixels are ignored. By default the files hold train ids.
            ignore_index (`int`, *optional*, defaults to 255): The id in label files whose pixels are ignored.
        """
        check_count("id2label", list(id2label.values()), ignore_index)
        ids = dict(label_map or zip(id2label, id2label))
        for key, train_id in ids.items():
            if train_id not in {*id2label, IGNORE_INDEX}:
                raise InputError(
                    f"label_map: maps {key} to {train_id}, but the classes are 0 to {len(id2label) - 1}; "
                    f"correct it, or map {key} to {IGNORE_INDEX} to ignore its pixels"
                )
        if missing := sorted(id2label.keys() - ids.values()):
            raise InputError(
                f"label_map: no id is mapped to class {missing[0]} ({id2label[missing[0]]!r}); add the id that label "
                f"files hold for it, as in ID: {missing[0]}, or take the class out of id2label"
            )
        train_id = ids.get(ignore_index, IGNORE_INDEX)
        if train_id != IGNORE_INDEX:
            shifted = ", ".join(f"{i + 1}: {i}" for i in list(id2label)[:2])
            remedy = f"take {ignore_index} out of label_map" if label_map else f"give label_map: {{{shifted}, …}}"
            remedy += ", or name an id that no class has"
            raise InputError(f"ignore_index: {ignore_index} is the id of class {id2label[train_id]!r}, too; {remedy}")
        ids[ignore_index] = IGNORE_INDEX
        return cls(decode=False, names=list(id2label.values()), train_ids=ids)

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> name."""
        return dict(enumerate(self.names))

    @functools.cached_property
    def ranges(self) -> list[tuple[int, int, int]]:
        """(first id, last id, train id) of ids and ranges of ids."""
        return [(*id_bounds(key), train_id) for key, train_id in self.train_ids.items() if str(key)[0] != "#"]

    @functools.cached_property
    def colors(self) -> dict[int, int]:
        """Color as red · 65536 + green · 256 + blue -> train id."""
        items = self.train_ids.items()
        return {int(key[1:], 16): train_id for key, train_id in items if str(key)[0] == "#"}

    @functools.cached_property
    def table(self) -> np.ndarray:
        """(65536,) int16, id in a label file -> train id, -1 where an id may not occur."""
        table = np.full(NUM_IDS, -1, np.int16)
        for first, last, train_id in self.ranges:
            table[first : last + 1] = train_id
        return table

    @functools.cached_property
    def color_table(self) -> np.ndarray:
        """(2²⁴,) uint16, color -> train id + 1, 0 where a color may not occur; a gray without a class is an id."""
        table = np.zeros(1 << 24, np.uint16)  # 32 MB, of which the system gives only the pages that are written
        table[np.arange(256) * 0x010101] = self.table[:256] + 1
        table[list(self.colors)] = np.array(list(self.colors.values()), np.uint16) + 1
        return table

    def decode_example(self, value: dict, token_per_repo_id: dict | None = None) -> Image.Image:
        return Image.fromarray(read_label(value, self))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental"; tests read stored tables of both
    for feature in (InputImage, LabelImage):
        register_feature(feature, feature.__name__)


def id_bounds(key: int | str) -> tuple[int, int]:
    """Returns the first and the last id of an id or a range of ids; colors are numbered after all ids."""
    if str(key).startswith("#"):
        return (LARGEST_ID + 1 + int(key[1:], 16),) * 2
    first, _, last = str(key).partition("-")
    return int(first), int(last or first)


def check_count(where: str, names: list[str], other: int = IGNORE_INDEX, value: Any = 0) -> None:
    """Rejects more classes than a byte holds, and a class alone: there would be nothing to tell it from."""
    if len(names) == 1:
        raise InputError(
            f"{where}: holds 1 class, {names[0]!r}, and there is nothing to tell it from; name what the other pixels "
            f"show, too, with the values in the label files: classes: {{background: {other}, {names[0]}: {value}}}"
        )
    if not 2 <= len(names) <= IGNORE_INDEX:
        raise InputError(f"{where}: holds {len(names)} classes, there can be 2 to {IGNORE_INDEX}")


@in_one_thread()
def read_label(source: Source, labels: LabelImage) -> np.ndarray:
    """
    Reads a label as (H, W) uint8 of train ids, from a file of 1 to 32 bits a pixel with or without a palette, or of
    colors. Of a palette the indices count; of those without a class, the colors, and white as 255.
    """
    name, content = label_bytes(source)
    values, train_ids = _look_up(name, content, labels)
    unknown = train_ids < 0
    if unknown.any():
        raise InputError(f"{name}: {_problem(values, unknown, labels)}")
    return train_ids.astype(np.uint8)


def label_bytes(source: Source) -> tuple[str, bytes]:
    """Returns name and content of a label; of a folder with a mask for each instance, their maximum as PNG."""
    name = name_of(source)
    files = [name] if isinstance(source, Mapping) and source.get("bytes") is not None else files_of(name)
    if files == [name]:
        return read_bytes(source)
    joined = None
    for file in files:
        mask = np.asarray(open_image(*read_bytes(file)))
        if joined is not None and joined.shape != mask.shape:
            first = os.path.relpath(files[0], name)
            sizes = "{1}×{0} pixels, but {2} beside it {4}×{3}".format(*mask.shape[:2], first, *joined.shape[:2])
            raise InputError(f"{file}: is {sizes}; give masks of one size and mode")
        joined = mask if joined is None else np.maximum(joined, mask)
    stream = io.BytesIO()
    Image.fromarray(joined).save(stream, "PNG", compress_level=1)
    return name, stream.getvalue()


def _look_up(name: str, content: bytes, labels: LabelImage) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids, or colors as in `LabelImage.colors`, (H, W), and their train ids, -1 where a value has none."""
    if content[:3] == b"\xff\xd8\xff" or content[8:16] == b"WEBPVP8 ":
        kind = "JPEG" if content[0] == 0xFF else "lossy WebP"
        reason = f"is a {kind}, which blurs the values of a label (are images and labels swapped?)"
        raise InputError(f"{name}: {reason}; export the labels as PNG")
    pixels = None
    if content[:8] == PNG and content[24:26] in (b"\x08\x02", b"\x08\x06"):  # OpenCV is faster
        with contextlib.suppress(cv2.error):  # of a damaged one, Pillow says how
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        image = open_image(name, content)
        if image.mode == "LA":
            _check_alpha(name, np.asarray(image.getchannel("A")))
            image = image.getchannel("L")
        if image.mode in ("L", "P", "1"):
            ids = np.asarray(image).astype(np.uint8, copy=False) // _STRETCHED.get(image.info.get("rawmode"), 1)
            return ids, cv2.LUT(ids, _byte_table(image, labels))
        if image.mode == "F" or image.mode.startswith("I"):
            ids = np.asarray(image)
            if ids.dtype.kind == "f" and (ids != np.rint(ids)).any():
                raise InputError(f"{name}: holds fractions such as {ids[ids != np.rint(ids)][0]}; save whole numbers")
            return ids, _by_runs(ids, functools.partial(_look_up_ids, labels))
        pixels = np.array(image.convert("RGBA" if "A" in image.mode else "RGB"))
        pixels[..., :3] = pixels[..., 2::-1]
    if pixels.shape[2] == 4:
        _check_alpha(name, pixels[..., 3])
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA) if pixels.shape[2] == 3 else pixels
    pixels[..., 3] = 0
    colors = pixels.view(np.uint32)[..., 0]
    return colors, _by_runs(colors, lambda values: labels.color_table[values].astype(np.int16) - 1)


def _check_alpha(name: str, alpha: np.ndarray) -> None:
    if transparent := np.count_nonzero(alpha < 255):
        raise InputError(f"{name}: {transparent:,} pixels are transparent; save the label without transparency")


def _look_up_ids(labels: LabelImage, ids: np.ndarray) -> np.ndarray:
    """Returns the train ids of whole numbers, -1 where there is none."""
    ids = ids.astype(np.int64)
    train_ids = np.append(labels.table, np.int16(-1))[ids.clip(-1, NUM_IDS)]
    for first, last, train_id in labels.ranges:
        if last >= NUM_IDS:
            train_ids[(ids >= first) & (ids <= last)] = train_id
    return train_ids


def _by_runs(values: np.ndarray, look_up: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Applies `look_up` to runs of one value within (H, W): a hundred times fewer than pixels."""
    flat = values.ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    return np.repeat(look_up(flat[starts]), np.diff(starts, append=flat.size)).reshape(values.shape)


def count_values(source: Source, labels: LabelImage) -> Counter[tuple[int | str, int]]:
    """
    Counts the pixels of each value in a label, an id or a color `"#ff0000"`, and its train id, -1 without one. While
    no class is named, raises if it is a photo or was smoothed.
    """
    name, content = label_bytes(source)
    values, train_ids = _look_up(name, content, labels)
    found, first, counts = np.unique(values, return_index=True, return_counts=True)
    if not labels.names and (problem := _noise_problem(values, np.isin(values, found[counts < 0.02 * values.size]))):
        raise InputError(f"{name}: {problem}")
    if values.dtype == np.uint32:  # colors, where a gray without a class is an id
        grays = (found % 0x010101 == 0) & ~np.isin(found, list(labels.colors))
        written = [int(value) & 255 if gray else f"#{value:06x}" for value, gray in zip(found, grays)]
    else:
        written = [int(value) for value in found]
    return Counter(dict(zip(zip(written, train_ids.ravel()[first].tolist()), counts.tolist())))


def _byte_table(image: Image.Image, labels: LabelImage) -> np.ndarray:
    """Returns (256,) int16, byte in an image -> train id; one that is no id stands for its color, if that is named."""
    table = labels.table[:256].copy()
    palette = np.reshape(image.getpalette("RGB") if image.mode == "P" else np.arange(256).repeat(3), (-1, 3))
    palette = palette[[0, 255]] if image.mode == "1" else palette
    white = np.flatnonzero((palette == 255).all(axis=1) & (table[: len(palette)] < 0))
    table[white] = table[255]
    if labels.colors:
        for value in np.flatnonzero(table[: len(palette)] < 0):
            red, green, blue = palette[value].tolist()
            table[value] = labels.colors.get(red << 16 | green << 8 | blue, -1)
    return table


def _problem(values: np.ndarray, unknown: np.ndarray, labels: LabelImage) -> str:
    """Says in words what the values without a class in a label (H, W) probably are, and what to write."""
    if problem := _noise_problem(values, unknown):
        return problem
    found, counts = np.unique(values[unknown], return_counts=True)
    named, of_colors = _written(found), values.dtype == np.uint32
    kind = "color" if of_colors else "id"
    listed = [f"{value} ({counted(count, 'pixel')})" for value, count in zip(named, counts)]
    named_so_far = [f"{labels.names[i]}: {value}" for value, i in labels.train_ids.items() if i != IGNORE_INDEX]
    remedy = f"classes: {{{', '.join(named_so_far[:2])}{', …' * (len(named_so_far) > 2)}, NAME: {named[0]}}}"
    if of_colors and not labels.colors:
        remedy = f"classes: {{{first_few((f'NAME: {color}' for color in named), 5)}}}"
    elif len(found) > 1 and labels.ranges and not of_colors:
        first, name = max((first, labels.names[i]) for first, _, i in labels.ranges if i != IGNORE_INDEX)
        remedy += f" or, if the ids from {first} on are instances of {name}, {name}: {first}-65535"
    elif len(labels.names) == 2 and not labels.colors and len(found) == 1:
        remedy += f" or, if it is {labels.names[1]}, {labels.names[1]}: {named[0]}"
    return (
        f"unknown class {kind} {first_few(listed, 5)}; the classes have {_known(labels)}. Correct the label or, in "
        f"data of your own, name what it shows, {remedy}, or ignore it, ignore: [{named[0]}]"
    )


def _noise_problem(values: np.ndarray, unknown: np.ndarray) -> str | None:
    """Says that the values without a class in a label (H, W) are those of a photo or of smooth edges, if they are."""
    found = np.unique(values[unknown])
    flat = np.mean((values[:, 1:] == values[:, :-1])[unknown[:, 1:]]) if unknown[:, 1:].any() else 1
    if len(found) <= MANY_VALUES or flat >= 0.5:
        return None
    share, few = unknown.mean(), first_few(_written(found))
    problem = f"holds {len(found):,} values without a class, such as {few}, at {share:.0%} of its pixels"
    if share > 0.5:
        remedy = "Correct the folders, or train_images and train_labels"
        return f"{problem}, as a photo does; are images and labels swapped? {remedy}"
    cause = "the mask was smoothed (anti-aliased, resized, or a JPEG before)"
    return f"{problem}, mostly at edges: {cause}; export it again without smoothing"


def _written(values: np.ndarray) -> list[str]:
    return [f'"#{value:06x}"' if values.dtype == np.uint32 else str(value) for value in values]


def _known(labels: LabelImage) -> str:
    """Returns the values of the classes in words, those that follow one another as a range."""
    ids = np.flatnonzero((labels.table >= 0) & (labels.table != IGNORE_INDEX))
    runs = [run for run in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1) if len(run)]
    known = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    colors = [f"#{color:06x}" for color, train_id in labels.colors.items() if train_id != IGNORE_INDEX]
    parts = [("the ids ", known), ("the colors ", colors)]
    return " and ".join(f"{what}{first_few(each, 8)}" for what, each in parts if each)


def read_pair(example: Mapping, features: datasets.Features) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the image (H, W, 3) of an example and, if it has one, the label (H, W), both uint8 and of one size."""
    image = read_image(example["image"], features.get("image"))
    if "label" not in example:
        return image, None
    label = read_label(example["label"], features["label"])
    check_sizes(example, image.shape[1::-1], label.shape[::-1])
    return image, label


def check_sizes(example: Mapping, image_size: tuple[int, int], label_size: tuple[int, int]) -> None:
    """Raises if the image and the label of an example differ in (width, height)."""
    if image_size == label_size[::-1] != label_size and (orientation := exif_orientation(example["image"])) > 4:
        turned = f"the image {name_of(example['image'])} was turned upright by its EXIF orientation {orientation}"
        remedy = "the label is as stored: turn the label, or save the image without the tag"
        raise InputError(f"{name_of(example['label'])}: {turned}; {remedy}")
    if image_size != label_size:
        sizes = "{}×{} pixels, but its image {} is {}×{}".format(*label_size, name_of(example["image"]), *image_size)
        raise InputError(f"{name_of(example['label'])}: the label is {sizes}; give a label of the image's size")
