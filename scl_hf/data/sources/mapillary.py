"""Mapillary Vistas: its folders, and the class table in the config file that lies beside them."""

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..arguments import DataArguments
from ..images import IGNORE_INDEX
from ..labels import LabelImage
from .base import Example, License, Source, check_fields, group_by_split, match_files, open_examples

TITLE = "Mapillary Vistas"
NUM_IMAGES = {"training": 18000, "validation": 2000, "testing": 5000}
LICENSE = License(
    "mapillary",
    "Mapillary Vistas",
    "https://www.mapillary.com/dataset/vistas",
    """@inproceedings{neuhold2017vistas,
  title = {The {Mapillary Vistas} Dataset for Semantic Understanding of Street Scenes},
  author = {Neuhold, Gerhard and others}, booktitle = {ICCV}, year = {2017}
}""",
)
# version -> the class table and the label folder of a split; of two, the release of v2.0 has the first.
_CONFIGS = {"v1.2": ("config_v1.2.json", "config.json"), "v2.0": ("config_v2.0.json",)}
_LABELS = {"v1.2": ("v1.2/labels", "labels"), "v2.0": ("v2.0/labels",)}
_SPLIT_FOLDERS = {"train": "training", "validation": "validation", "test": "testing"}


def is_layout(root: str | os.PathLike) -> bool:
    """Returns whether a folder has images in the layout of Mapillary Vistas."""
    configs = any(os.path.isfile(os.path.join(root, name)) for names in _CONFIGS.values() for name in names)
    versions = any(os.path.isdir(os.path.join(root, "training", version)) for version in _LABELS)
    images = any(os.path.isdir(os.path.join(root, split, "images")) for split in ("training", "testing"))
    return images and (configs or versions)


def find_examples(root: str | os.PathLike, version: str | None = None) -> list[Example]:
    """Finds images and labels, also without a partner; expects labels of `version`, by default those that exist."""
    examples = []
    for split in NUM_IMAGES:
        files = {"image": (os.path.join(root, split, "images"), ".jpg")}
        for kind, names in _LABELS.items():
            folders = [os.path.join(root, split, name) for name in names]
            existing = next(filter(os.path.isdir, folders), None)
            if existing or kind == version and split != "testing":
                files[kind] = existing or folders[-1], ".png"
        if len(files) == 1 and split != "testing":
            files["v1.2"] = os.path.join(root, split, "labels"), ".png"
        examples += match_files(split, files)
    return examples


def read_classes(data_dir: str | os.PathLike, version: str = "v1.2") -> tuple[LabelImage, np.ndarray]:
    """
    Reads the labels and colors of the config file: label files hold positions in its list `labels`, and those that are
    evaluated get train ids in order. A name is the readable one where no other label has it.
    """
    paths = [Path(data_dir, name) for name in _CONFIGS[version]]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        looked = " and ".join(map(str, paths))
        raise InputError(f"{data_dir}: the class table of {version} is missing, looked for {looked}; unpack it, too")
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        readable = Counter(label["readable"] for label in labels)
        evaluated = {id: label for id, label in enumerate(labels) if label["evaluate"]}
        if not evaluated:
            raise ValueError("none of its labels is evaluated")
        names = [label["readable" if readable[label["readable"]] == 1 else "name"] for label in evaluated.values()]
        palette = np.array([label["color"] for label in evaluated.values()], np.uint8).reshape(len(evaluated), 3)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: is not the class table of Mapillary Vistas ({reason}); copy it again") from error
    train_ids = dict.fromkeys(range(len(labels)), IGNORE_INDEX) | {id: i for i, id in enumerate(evaluated)}
    return LabelImage(decode=False, names=names, train_ids=train_ids), palette


def open_source(args: DataArguments) -> Source:
    """Opens Mapillary Vistas, with the labels of the version that `dataset_config` names."""
    check_fields(args, "Mapillary Vistas")
    version = args.dataset_config or "v1.2"
    if version not in _LABELS:
        raise InputError(f"dataset_config: Mapillary Vistas has the versions v1.2 and v2.0, not {version}")
    root = os.path.abspath(args.data_dir)
    splits = group_by_split(find_examples(root, version), _SPLIT_FOLDERS)
    if not splits:
        raise InputError(
            f"{args.data_dir}: no images of Mapillary Vistas found, looked for {{{','.join(NUM_IMAGES)}}}/images/"
            "*.jpg; unpack the zip there, or correct data_dir"
        )
    labels, palette = read_classes(root, version)
    remedy = "unpack the zip completely, correct dataset_config, or remove the image"
    return Source(
        name=args.data_dir,
        labels=labels,
        palette=palette,
        splits={
            split: partial(open_examples, examples, None if split == "test" else version, split, remedy=remedy)
            for split, examples in splits.items()
        },
        labeled_splits=("train", "validation"),
        expected_at=lambda split: f"{_SPLIT_FOLDERS.get(split, split)}/images/*.jpg",
        license=LICENSE,
    )
