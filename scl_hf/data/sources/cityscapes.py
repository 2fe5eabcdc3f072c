"""Cityscapes: its label table, and its folders with fine and coarse annotations."""

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ...errors import InputError
from ..columns import Frame, by_split, file_names, open_frames
from ..images import IGNORE_INDEX
from ..labels import LabelImage
from .base import DataArguments, License, Source, check_fields

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
LABEL_IMAGE = LabelImage(
    decode=False,
    names=list(ID2LABEL.values()),
    train_ids={label.id: label.train_id for label in LABELS if label.id >= 0},
)


def is_cityscapes(id2label: Mapping[int, str]) -> bool:
    """Whether classes are the 19 of Cityscapes, in their order."""
    return {i: name.lower() for i, name in id2label.items()} == ID2LABEL


# fmt: off
# split -> city -> images. Of the cities of train_extra only the sum is known.
CITIES = {
    "train": {
        "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
        "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
        "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
    "train_extra": dict.fromkeys((
        "augsburg", "bad-honnef", "bamberg", "bayreuth", "dortmund", "dresden", "duisburg", "erlangen", "freiburg",
        "heidelberg", "heilbronn", "karlsruhe", "konigswinter", "konstanz", "mannheim", "muhlheim-ruhr", "nuremberg",
        "oberhausen", "saarbrucken", "schweinfurt", "troisdorf", "wuppertal", "wurzburg",
    )),
}
# fmt: on
NUM_IMAGES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
ALL_CITIES = frozenset(city for cities in CITIES.values() for city in cities)

# The official zips unpacked into one folder, or each into a folder of its own name.
_PLACES = {
    "leftImg8bit": ("leftImg8bit", *(f"leftImg8bit_{part}/leftImg8bit" for part in ("trainvaltest", "trainextra"))),
    "gtFine": ("gtFine", "gtFine_trainvaltest/gtFine"),
    "gtCoarse": ("gtCoarse", "gtCoarse/gtCoarse"),
}
# split -> folder
_FOLDERS = {"train": "train", "validation": "val", "test": "test", "train_extra": "train_extra"}
_SPLITS = {"fine": ("train", "validation", "test"), "coarse": ("train", "validation", "train_extra")}
_KINDS = {"fine": "gtFine", "coarse": "gtCoarse"}
# A file beside leftImg8bit that tells: the pictures were drawn, and are nobody's but the drawer's.
DRAWN_MARKER = "DRAWN.txt"
# This frame of train_extra is a gray field, as the authors of the data set state.
BROKEN_FRAMES = frozenset({"troisdorf_000000_000073"})
LICENSE = License(
    "cityscapes",
    "Cityscapes",
    "https://www.cityscapes-dataset.com/license",
    """@inproceedings{cordts2016cityscapes,
  title = {The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  author = {Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and Rehfeld, Timo and Enzweiler, Markus and
            Benenson, Rodrigo and Franke, Uwe and Roth, Stefan and Schiele, Bernt},
  booktitle = {Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016}
}""",
)
_SUBSETS = Path(__file__).with_name("cityscapes_splits")


def find_split(data_dir: str | os.PathLike, kind: str, folder: str) -> str | None:
    """The folder `"train"`, `"val"`, … of a kind, `"leftImg8bit"`, `"gtFine"` or `"gtCoarse"`, if it is there."""
    places = (os.path.join(data_dir, place, folder) for place in _PLACES[kind])
    return next(filter(os.path.isdir, places), None)


def find_frames(root: str | os.PathLike) -> list[Frame]:
    """All frames of a folder in the layout of Cityscapes: each image or label that is there, and what it lacks."""
    frames = []
    for folder in NUM_IMAGES:
        images = find_split(root, "leftImg8bit", folder)
        # gtCoarse.zip brings the labels of train_extra to those who want train's alone.
        if images is None and folder == "train_extra":
            continue
        places = {kind: find_split(root, kind, folder) for kind in _KINDS.values()}
        if folder in ("train", "val") and images is not None:
            places["gtFine"] = places["gtFine"] or os.path.join(root, "gtFine", folder)
        places = {kind: place for kind, place in places.items() if place is not None}
        images = images or os.path.join(root, "leftImg8bit", folder)
        cities = {city for place in (images, *places.values()) if os.path.isdir(place) for city in os.listdir(place)}
        for city in sorted(city for city in cities if city[0] != "."):
            found = {kind: file_names(f"{place}/{city}", f"_{kind}_labelIds.png") for kind, place in places.items()}
            found["image"] = file_names(f"{images}/{city}", "_leftImg8bit.png")
            for frame in sorted(set().union(*found.values())):
                present = frozenset(kind for kind, names in found.items() if frame in names)
                # The labels of test are dummies, of which none is missed.
                kinds = [kind for kind in places if folder != "test" or kind in present]
                labels = {kind: f"{places[kind]}/{city}/{frame}_{kind}_labelIds.png" for kind in kinds}
                frames.append(Frame(folder, frame, f"{images}/{city}/{frame}_leftImg8bit.png", labels, present, city))
    return frames


def _open(
    frames: Sequence[Frame], kind: str | None, split: str, complete: bool, skip_ids: Collection[str] = BROKEN_FRAMES
) -> datasets.Dataset:
    """The rows of a split with one kind of label, but those of `skip_ids`."""
    for frame in frames:
        if frame.id in skip_ids and "image" in frame.present:
            broken = ", a broken frame of the official data set" if frame.id in BROKEN_FRAMES else ""
            logger.warning(f"{frame.image}: skipped{broken}")
    frames = [frame for frame in frames if frame.id not in skip_ids]
    remedy = f"unpack the zip of {kind} completely, or remove the image"
    if kind is None or split == "train_extra":
        remedy = "name the split in unlabeled_splits only"
    return open_frames(frames, kind, split, complete, remedy)


def load_cityscapes(
    data_dir: str | os.PathLike, config: str = "fine", skip_ids: Collection[str] = BROKEN_FRAMES
) -> datasets.DatasetDict:
    """
    Opens Cityscapes, or data in its folder layout. Either form is found: the official zips unpacked into `data_dir`,
    or each into its own folder there (`leftImg8bit_trainvaltest/leftImg8bit/…`). The rows hold paths, no pictures.

    Args:
        data_dir (`str`): The folder with `leftImg8bit` and `gtFine` or `gtCoarse`.
        config (`str`, *optional*, defaults to `"fine"`):
            The annotations, `"fine"` (splits train, validation, test) or `"coarse"` (train, validation, train_extra).
        skip_ids (`Collection[str]`, *optional*):
            Images that are left out, and named in the log; by default the one of train_extra that is a gray field.

    Returns:
        `datasets.DatasetDict`: The splits that exist, with the columns `image` and `label` (`Image(decode=False)`),
        `id` (`<city>_<sequence>_<frame>`) and `city`. `label` is None in test, whose label files are dummies, and for
        images of train_extra without an annotation.
    """
    root = os.path.abspath(data_dir)  # a relative path would break in another working directory
    if config not in _SPLITS:
        raise ValueError(f"config must be 'fine' or 'coarse', not {config!r}")
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; data_dir must name the folder that holds leftImg8bit and gtFine")
    kind, rows = _KINDS[config], datasets.DatasetDict()
    for split, frames in by_split(find_frames(root), _FOLDERS).items():
        complete = split in ("train", "validation")
        # Coarse annotations of these are an extra of the fine ones: without them, the split is not there.
        absent = config == "coarse" and complete and kind not in frames[0].labels
        if split in _SPLITS[config] and not absent:
            rows[split] = _open(frames, None if split == "test" else kind, split, complete, skip_ids)
    if not rows:
        raise InputError(
            f"{root}: no Cityscapes images with {kind} found; looked for leftImg8bit/"
            f"{{{','.join(map(_FOLDERS.get, _SPLITS[config]))}}}/<city>/*_leftImg8bit.png there and in "
            "leftImg8bit_trainvaltest and leftImg8bit_trainextra; unpack the zips of Cityscapes into one folder and "
            "give it as data_dir"
        )
    return rows


def open_source(args: DataArguments) -> Source:
    """Cityscapes: fine labels and, in `train_extra`, coarse ones."""
    subset = subset_file(args.labeled_split) if args.labeled_split else None
    check_fields(args, "Cityscapes")
    root = os.path.abspath(args.data_dir)
    splits = by_split(find_frames(root), _FOLDERS)
    drawn = os.path.isfile(os.path.join(root, DRAWN_MARKER))
    official = any(frame.city in ALL_CITIES for frames in splits.values() for frame in frames)
    kinds = {"test": None, "train_extra": "gtCoarse"}
    return Source(
        where=args.data_dir,
        labels=LABEL_IMAGE,
        palette=PALETTE,
        splits={split: partial(_open, frames, kinds.get(split, "gtFine"), split) for split, frames in splits.items()},
        labeled=("train", "validation"),
        unlabeled_splits=[split for split in splits if split == "train_extra"],
        place=lambda split: f"leftImg8bit/{_FOLDERS.get(split, split)}/<city>/*_leftImg8bit.png",
        coarse_split="train_extra",
        subset=subset,
        license=None if drawn and not official else LICENSE,
    )


def subset_file(name: str) -> Path:
    """The list of ids of a standard labeled subset, such as `"1_8"`."""
    names = sorted((path.stem for path in _SUBSETS.glob("*.txt")), key=lambda stem: (len(stem), stem))
    if name not in names:
        raise InputError(f"labeled_split: there is no split {name!r}; give one of {', '.join(names)}")
    return _SUBSETS / f"{name}.txt"


def is_official_frame(image_id: str) -> bool:
    """Whether an image bears a name of Cityscapes, `aachen_000000_000019…`, wherever it lies now."""
    city, *rest = re.split(r"_(?=\d{6}_\d{6})", image_id, maxsplit=1)
    return bool(rest) and city in ALL_CITIES
