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
  author = {Neuhold, Gerhard and Ollmann, Tobias and Rota Bul{\\`o}, Samuel and Kontschieder, Peter},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2017}
}""",
)
# version -> the class table and the label folder of a split; of two, the release of v2.0 has the first.
_CONFIGS = {"v1.2": ("config_v1.2.json", "config.json"), "v2.0": ("config_v2.0.json",)}
_LABELS = {"v1.2": ("v1.2/labels", "labels"), "v2.0": ("v2.0/labels",)}
_SPLIT_FOLDERS = {"train": "training", "validation": "validation", "test": "testing"}


def is_layout(root: str | os.PathLike) -> bool:
    """Returns whether a folder has images in the layout of Mapillary Vistas."""
    return any(os.path.isdir(os.path.join(root, split, "images")) for split in ("training", "testing"))


def find_examples(root: str | os.PathLike, version: str | None = None) -> list[Example]:
    """
    Finds the images and labels of a folder, also those without a partner. Labels of `version` are expected, by default
    of the versions that exist, or else of v1.2.
    """
    examples = []
    for split in NUM_IMAGES:
        folder = os.path.join(root, split)
        existing = {
            kind: [name for name in names if os.path.isdir(f"{folder}/{name}")] for kind, names in _LABELS.items()
        }
        labels = {kind: names[0] for kind, names in existing.items() if names}
        if split != "testing" and (version or not labels):
            labels.setdefault(version or "v1.2", _LABELS[version or "v1.2"][-1])
        files = {kind: (os.path.join(folder, name), ".png") for kind, name in labels.items()}
        examples += match_files(split, files | {"image": (os.path.join(folder, "images"), ".jpg")})
    return examples


def read_classes(data_dir: str | os.PathLike, version: str = "v1.2") -> tuple[LabelImage, np.ndarray]:
    """
    Reads the labels and colors of the config file. A label file holds positions in its list `labels`. Labels that are
    not evaluated, such as Unlabeled, are ignored; the others get train ids in order, 65 of them in v1.2. A name is the
    readable one where no other label has it.
    """
    paths = [Path(data_dir, name) for name in _CONFIGS[version]]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        looked = " and ".join(map(str, paths))
        raise InputError(
            f"{data_dir}: no class table of Mapillary Vistas {version}, looked for {looked}; unpack it, too"
        )
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        readable = Counter(label["readable"] for label in labels)
        evaluated = {id: label for id, label in enumerate(labels) if label["evaluate"]}
        if not evaluated:
            raise ValueError("none of its labels is evaluated")
        names = [label["readable" if readable[label["readable"]] == 1 else "name"] for label in evaluated.values()]
        palette = np.array([label["color"] for label in evaluated.values()], np.uint8).reshape(len(evaluated), 3)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: is not the class table of Mapillary Vistas ({type(error).__name__}: {error}); expected a list "
            "`labels` of name, readable, color and evaluate: copy it again from the zip"
        ) from error
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
            f"{args.data_dir}: no images of Mapillary Vistas found; looked for {{{','.join(NUM_IMAGES)}}}/images/"
            "*.jpg there; unpack the zip of Mapillary Vistas and give its folder as data_dir"
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
