"""Cityscapes: its label table, and its folders with fine and coarse annotations."""

import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ..arguments import DataArguments
from ..images import IGNORE_INDEX
from ..labels import LabelImage
from .base import Example, License, Source, check_fields, group_by_split, match_files, open_examples

logger = logging.getLogger(__name__)


class Label(NamedTuple):
    """A line of the official label table: label files hold `id`, a model predicts `train_id`."""

    name: str
    id: int
    train_id: int
    category: str
    color: tuple[int, int, int]


# fmt: off
# category -> names and colors in the order of the ids 0, 1, …; + marks the classes that are evaluated
_TABLE = {
    "void": "unlabeled 000000, ego vehicle 000000, rectification border 000000, out of roi 000000, static 000000, "
            "dynamic 6f4a00, ground 510051",
    "flat": "+road 804080, +sidewalk f423e8, parking faaaa0, rail track e6968c",
    "construction": "+building 464646, +wall 66669c, +fence be9999, guard rail b4a5b4, bridge 966464, tunnel 96785a",
    "object": "+pole 999999, polegroup 999999, +traffic light faaa1e, +traffic sign dcdc00",
    "nature": "+vegetation 6b8e23, +terrain 98fb98",
    "sky": "+sky 4682b4",
    "human": "+person dc143c, +rider ff0000",
    "vehicle": "+car 00008e, +truck 000046, +bus 003c64, caravan 00005a, trailer 00006e, +train 005064, "
               "+motorcycle 0000e6, +bicycle 770b20",
}
# split -> city -> number of images; of the cities of train_extra only the sum is known
CITIES = {
    "train": dict(
        aachen=174, bochum=96, bremen=316, cologne=154, darmstadt=85, dusseldorf=221, erfurt=109, hamburg=248,
        hanover=196, jena=119, krefeld=99, monchengladbach=94, strasbourg=365, stuttgart=196, tubingen=144, ulm=95,
        weimar=142, zurich=122,
    ),
    "val": dict(frankfurt=267, lindau=59, munster=174),
    "test": dict(berlin=544, bielefeld=181, bonn=46, leverkusen=58, mainz=298, munich=398),
    "train_extra": dict.fromkeys(
        "augsburg bad-honnef bamberg bayreuth dortmund dresden duisburg erlangen freiburg heidelberg heilbronn "
        "karlsruhe konigswinter konstanz mannheim muhlheim-ruhr nuremberg oberhausen saarbrucken schweinfurt "
        "troisdorf wuppertal wurzburg".split()
    ),
}
# fmt: on


def _read_table() -> list[Label]:
    labels, train_ids = [], itertools.count()
    for category, entries in _TABLE.items():
        for entry in entries.split(", "):
            name, color = entry.rsplit(" ", 1)
            train_id = next(train_ids) if name.startswith("+") else IGNORE_INDEX
            labels.append(Label(name.lstrip("+"), len(labels), train_id, category, tuple(bytes.fromhex(color))))
    return [*labels, Label("license plate", -1, -1, "vehicle", (0, 0, 142))]  # in polygons only


LABELS = _read_table()
_CLASSES = [label for label in LABELS if 0 <= label.train_id < IGNORE_INDEX]  # in the order of their train ids
ID2LABEL = {label.train_id: label.name for label in _CLASSES}
PALETTE = np.array([label.color for label in _CLASSES], np.uint8)
LABEL_IDS = np.array([label.id for label in _CLASSES], np.uint8)  # train id -> id
_TRAIN_IDS = {label.id: label.train_id for label in LABELS if label.id >= 0}
LABEL_IMAGE = LabelImage(decode=False, names=list(ID2LABEL.values()), train_ids=_TRAIN_IDS)
_OF_TRAIN_IDS = LabelImage.of(ID2LABEL)

NUM_IMAGES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
ALL_CITIES = frozenset(city for cities in CITIES.values() for city in cities)
DRAWN_MARKER = "DRAWN.txt"  # marks synthetic images: the license of Cityscapes does not cover them
BROKEN_IMAGES = frozenset({"troisdorf_000000_000073"})  # a gray field, as the authors of Cityscapes state
LICENSE = License(
    "cityscapes",
    "Cityscapes",
    "https://www.cityscapes-dataset.com/license",
    """@inproceedings{cordts2016cityscapes,
  title = {The {Cityscapes} Dataset for Semantic Urban Scene Understanding},
  author = {Cordts, Marius and others}, booktitle = {CVPR}, year = {2016}
}""",
)
TITLE = "the layout of Cityscapes"

# Each kind of file lies in one of these folders: the official zips unpacked into one, or each into its own.
_FOLDERS = {
    "leftImg8bit": ("leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit", "leftImg8bit_trainextra/leftImg8bit"),
    "gtFine": ("gtFine", "gtFine_trainvaltest/gtFine"),
    "gtCoarse": ("gtCoarse", "gtCoarse/gtCoarse"),
}
_SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test", "train_extra": "train_extra"}


def is_cityscapes(id2label: Mapping[int, str]) -> bool:
    """Returns whether the classes are the 19 of Cityscapes, in their order."""
    return {i: name.lower() for i, name in id2label.items()} == ID2LABEL


def is_official_id(image_id: str) -> bool:
    """Returns whether an id is one of Cityscapes, `aachen_000000_000019…`, wherever the image is now."""
    city, *rest = re.split(r"_(?=\d{6}_\d{6})", image_id, maxsplit=1)
    return bool(rest) and city in ALL_CITIES


def labeled_split_file(name: str) -> Path:
    """Returns the file with the ids of a standard labeled subset, such as `"1/8"`."""
    return Path(__file__).parent / "cityscapes_splits" / f"{name.replace('/', '_')}.txt"


def is_layout(root: str | os.PathLike) -> bool:
    """Returns whether a folder has images in the layout of Cityscapes."""
    return any(_find_folder(root, "leftImg8bit", split) for split in NUM_IMAGES)


def find_examples(root: str | os.PathLike, form: str = "labelIds") -> list[Example]:
    """Finds the images and labels, files of this `form`, of a folder, also those without a partner."""
    examples = []
    for split in NUM_IMAGES:
        images = _find_folder(root, "leftImg8bit", split)
        if images is None and split == "train_extra":  # gtCoarse.zip has its labels also for those who use only train
            continue
        folders = {kind: _find_folder(root, kind, split) for kind in ("gtFine", "gtCoarse")}
        if split in ("train", "val") and images is not None:
            folders["gtFine"] = folders["gtFine"] or os.path.join(root, "gtFine", split)
        endings = {kind: (folder, f"_{kind}_{form}.png") for kind, folder in folders.items() if folder is not None}
        endings["image"] = images or os.path.join(root, "leftImg8bit", split), "_leftImg8bit.png"
        cities = {city for folder, _ in endings.values() if os.path.isdir(folder) for city in os.listdir(folder)}
        for city in sorted(city for city in cities if city[0] != "."):
            files = {kind: (f"{folder}/{city}", ending) for kind, (folder, ending) in endings.items()}
            # The labels of test are dummies, so none is missing
            examples += match_files(split, files, city, expect_labels=split != "test")
    return examples


def _find_folder(root: str | os.PathLike, kind: str, split: str) -> str | None:
    return next(filter(os.path.isdir, (os.path.join(root, folder, split) for folder in _FOLDERS[kind])), None)


def _open(examples: Sequence[Example], kind: str | None, split: str, require_labels: bool) -> datasets.Dataset:
    """Opens a split with one kind of label, without broken images."""
    for example in examples:
        if example.id in BROKEN_IMAGES and "image" in example.present:
            logger.warning("%s: skipped, a broken image of the official data", example.image)
    examples = [example for example in examples if example.id not in BROKEN_IMAGES]
    unlabeled = kind is None or split == "train_extra"
    remedy = f"unpack the zip of {kind} completely, or remove the image"
    remedy = "name the split in unlabeled_splits only" if unlabeled else remedy
    return open_examples(examples, kind, split, require_labels, remedy)


def open_source(args: DataArguments) -> Source:
    """Opens Cityscapes: fine labels and, in `train_extra`, coarse ones."""
    check_fields(args, "Cityscapes")
    root = os.path.abspath(args.data_dir)
    examples, labels, notes = find_examples(root), LABEL_IMAGE, []
    if not any("gtFine" in example.present for example in examples):
        of_train_ids = find_examples(root, "labelTrainIds")
        if any("gtFine" in example.present for example in of_train_ids):
            examples, labels = of_train_ids, _OF_TRAIN_IDS
            notes = ["labels of *_gtFine_labelTrainIds.png: there are no *_gtFine_labelIds.png"]
    splits = group_by_split(examples, _SPLIT_FOLDERS)
    kinds = {"test": None, "train_extra": "gtCoarse"}
    drawn = os.path.isfile(os.path.join(root, DRAWN_MARKER))
    official = any(example.city in ALL_CITIES for group in splits.values() for example in group)
    return Source(
        name=args.data_dir,
        labels=labels,
        palette=PALETTE,
        splits={split: partial(_open, group, kinds.get(split, "gtFine"), split) for split, group in splits.items()},
        labeled_splits=("train", "validation"),
        unlabeled_splits=["train_extra"] if "train_extra" in splits else [],
        expected_at=lambda split: f"leftImg8bit/{_SPLIT_FOLDERS.get(split, split)}/<city>/*_leftImg8bit.png",
        license=None if drawn and not official else LICENSE,
        examples=examples,
        notes=notes,
    )
