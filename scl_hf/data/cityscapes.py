"""Cityscapes: its label table, and its folders with fine and coarse annotations."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ..errors import InputError
from .paths import open_paths
from .pictures import IGNORE_INDEX

logger = logging.getLogger(__name__)


class Label(NamedTuple):
    """One row of the official label table. `id` is what label files hold, `train_id` what a model predicts."""

    name: str
    id: int
    train_id: int
    category: str
    color: tuple[int, int, int]


# fmt: off
LABELS = (
    Label("unlabeled",             0, 255, "void",         (0, 0, 0)),
    Label("ego vehicle",           1, 255, "void",         (0, 0, 0)),
    Label("rectification border",  2, 255, "void",         (0, 0, 0)),
    Label("out of roi",            3, 255, "void",         (0, 0, 0)),
    Label("static",                4, 255, "void",         (0, 0, 0)),
    Label("dynamic",               5, 255, "void",         (111, 74, 0)),
    Label("ground",                6, 255, "void",         (81, 0, 81)),
    Label("road",                  7,   0, "flat",         (128, 64, 128)),
    Label("sidewalk",              8,   1, "flat",         (244, 35, 232)),
    Label("parking",               9, 255, "flat",         (250, 170, 160)),
    Label("rail track",           10, 255, "flat",         (230, 150, 140)),
    Label("building",             11,   2, "construction", (70, 70, 70)),
    Label("wall",                 12,   3, "construction", (102, 102, 156)),
    Label("fence",                13,   4, "construction", (190, 153, 153)),
    Label("guard rail",           14, 255, "construction", (180, 165, 180)),
    Label("bridge",               15, 255, "construction", (150, 100, 100)),
    Label("tunnel",               16, 255, "construction", (150, 120, 90)),
    Label("pole",                 17,   5, "object",       (153, 153, 153)),
    Label("polegroup",            18, 255, "object",       (153, 153, 153)),
    Label("traffic light",        19,   6, "object",       (250, 170, 30)),
    Label("traffic sign",         20,   7, "object",       (220, 220, 0)),
    Label("vegetation",           21,   8, "nature",       (107, 142, 35)),
    Label("terrain",              22,   9, "nature",       (152, 251, 152)),
    Label("sky",                  23,  10, "sky",          (70, 130, 180)),
    Label("person",               24,  11, "human",        (220, 20, 60)),
    Label("rider",                25,  12, "human",        (255, 0, 0)),
    Label("car",                  26,  13, "vehicle",      (0, 0, 142)),
    Label("truck",                27,  14, "vehicle",      (0, 0, 70)),
    Label("bus",                  28,  15, "vehicle",      (0, 60, 100)),
    Label("caravan",              29, 255, "vehicle",      (0, 0, 90)),
    Label("trailer",              30, 255, "vehicle",      (0, 0, 110)),
    Label("train",                31,  16, "vehicle",      (0, 80, 100)),
    Label("motorcycle",           32,  17, "vehicle",      (0, 0, 230)),
    Label("bicycle",              33,  18, "vehicle",      (119, 11, 32)),
    Label("license plate",        -1,  -1, "vehicle",      (0, 0, 142)),  # in polygons only, never in a label file
)
# fmt: on

_CLASSES = sorted((label for label in LABELS if 0 <= label.train_id < IGNORE_INDEX), key=lambda label: label.train_id)
ID2LABEL = {label.train_id: label.name for label in _CLASSES}
PALETTE = np.array([label.color for label in _CLASSES], np.uint8)
LABEL_IDS = np.array([label.id for label in _CLASSES], np.uint8)  # train id -> id
LABEL_TABLE = np.full(256, -1, np.int16)
LABEL_TABLE[[label.id for label in LABELS if label.id >= 0]] = [label.train_id for label in LABELS if label.id >= 0]


def is_cityscapes(id2label: Mapping[int, str]) -> bool:
    """Whether classes are the 19 of Cityscapes, in their order."""
    return {i: name.lower() for i, name in id2label.items()} == ID2LABEL


# The official zips unpacked into one folder, or each into a folder of its own name.
_FOLDERS = {
    "leftImg8bit": (
        "leftImg8bit",
        "leftImg8bit_trainvaltest/leftImg8bit",
        "leftImg8bit_trainextra/leftImg8bit",
    ),
    "gtFine": ("gtFine", "gtFine_trainvaltest/gtFine"),
    "gtCoarse": ("gtCoarse", "gtCoarse/gtCoarse"),
}
# split -> folder
_SPLITS = {
    "fine": {"train": "train", "validation": "val", "test": "test"},
    "coarse": {"train": "train", "validation": "val", "train_extra": "train_extra"},
}
_KINDS = {"fine": "gtFine", "coarse": "gtCoarse"}
# A file beside leftImg8bit that tells: the pictures were drawn, and are nobody's but the drawer's.
DRAWN_MARKER = "DRAWN.txt"
# This frame of train_extra is a grey field, as the authors of the data set state.
BROKEN_FRAMES = frozenset({"troisdorf_000000_000073"})


def load_cityscapes(
    data_dir: str | os.PathLike, config: str = "fine", skip_ids: Collection[str] = BROKEN_FRAMES
) -> datasets.DatasetDict:
    """
    Opens Cityscapes, or data in its folder layout. Either form is found: the official zips unpacked into `data_dir`,
    or each into its own folder there (`leftImg8bit_trainvaltest/leftImg8bit/…`). Only paths are stored, no pictures;
    the table is kept in the cache of `datasets` and made anew whenever a file is added, removed or of another size.

    Args:
        data_dir (`str`): The folder with `leftImg8bit` and `gtFine` or `gtCoarse`.
        config (`str`, *optional*, defaults to `"fine"`): The annotations, `"fine"` (splits train, validation, test) or
            `"coarse"` (train, validation, train_extra).
        skip_ids (`Collection[str]`, *optional*): Images that are left out, and named in the log; by default the one of
            train_extra that is a grey field.

    Returns:
        `datasets.DatasetDict`: The splits that exist, with the columns `image` and `label` (`Image(decode=False)`),
        `id` (`<city>_<sequence>_<frame>`) and `city`. `label` is None in test, whose label files are dummies, and for
        images of train_extra without an annotation.

    Raises:
        InputError: The folder or the splits are not there, an image lacks its label, or a file is empty.
    """
    root = os.path.abspath(data_dir)
    return open_paths("cityscapes", root, _find_rows(root, config, skip_ids), config)


def find_split(data_dir: str | os.PathLike, kind: str, split: str) -> Path | None:
    """
    The folder of a split: `kind` is `"leftImg8bit"`, `"gtFine"` or `"gtCoarse"`, `split` the name on disk (`"train"`,
    `"val"`, `"test"`, `"train_extra"`). None if there is none.
    """
    folders = (Path(data_dir, folder, split) for folder in _FOLDERS[kind])
    return next((folder for folder in folders if folder.is_dir()), None)


def _find_rows(root: str, config: str, skip_ids: Collection[str]) -> dict[str, list[dict]]:
    if config not in _SPLITS:
        raise ValueError(f"config must be 'fine' or 'coarse', not {config!r}")
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; data_dir must name the folder that holds leftImg8bit and gtFine")
    rows = {}
    for split, folder in _SPLITS[config].items():
        images = find_split(root, "leftImg8bit", folder)
        labels = find_split(root, _KINDS[config], folder)
        # Coarse annotations of train and val are an extra of the fine ones: without them, the split is not there.
        if images is None or (config == "coarse" and split != "train_extra" and labels is None):
            continue
        rows[split] = list(_split_rows(images, labels, root, split, _KINDS[config], skip_ids))
    rows = {split: found for split, found in rows.items() if found}
    if not rows:
        raise InputError(
            f"{root}: no Cityscapes images with {_KINDS[config]} found; looked for leftImg8bit/"
            f"{{{','.join(_SPLITS[config].values())}}}/<city>/*_leftImg8bit.png there and in leftImg8bit_trainvaltest "
            "and leftImg8bit_trainextra; unpack the zips of Cityscapes into one folder and give it as data_dir"
        )
    return rows


def _split_rows(
    images: Path, labels: Path | None, root: str, split: str, kind: str, skip_ids: Collection[str]
) -> Iterator[dict]:
    for city in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
        names = sorted(name for name in os.listdir(images / city) if name.endswith("_leftImg8bit.png"))
        annotated = set(os.listdir(labels / city)) if labels and (labels / city).is_dir() else set()
        for name in names:
            frame = name.removesuffix("_leftImg8bit.png")
            if frame in skip_ids:
                broken = ", a broken frame of the official data set" if frame in BROKEN_FRAMES else ""
                logger.warning(f"{images / city / name}: skipped{broken}")
                continue
            label = f"{frame}_{kind}_labelIds.png"
            if split == "test" or (split == "train_extra" and label not in annotated):
                path = None
            elif label in annotated:
                path = os.path.join(labels, city, label)
            else:
                looked = Path(labels or Path(root, kind, images.name), city, label)
                raise InputError(
                    f"{images / city / name}: its label is missing, looked for {looked}; "
                    f"unpack the zip of {kind} completely, or remove the image"
                )
            yield {"image": os.path.join(images, city, name), "label": path, "id": frame, "city": city}
