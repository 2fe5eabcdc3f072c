"""Mapillary Vistas: its folders, and the class table in its config file, in a copy of your own."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np

from ...errors import InputError
from ..columns import Frame, by_split, file_names, open_frames
from ..images import IGNORE_INDEX
from ..labels import LabelImage
from .base import DataArguments, License, Source, check_fields

# version -> the class table, and the labels of a split; the later release first, then the one of v1.0 to v1.2 alone.
_CONFIGS = {"v1.2": ("config_v1.2.json", "config.json"), "v2.0": ("config_v2.0.json",)}
_LABELS = {"v1.2": ("v1.2/labels", "labels"), "v2.0": ("v2.0/labels",)}
# split -> folder
_FOLDERS = {"train": "training", "validation": "validation", "test": "testing"}
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


def find_frames(root: str | os.PathLike, version: str | None = None) -> list[Frame]:
    """
    All frames of a folder in the layout of Mapillary Vistas: each image or label that is there, and what it lacks.
    Labels of `version` are expected, by default of those versions that are there, or else of v1.2.
    """
    frames = []
    for split in NUM_IMAGES:
        folder = os.path.join(root, split)
        there = {
            kind: [name for name in names if os.path.isdir(f"{folder}/{name}")] for kind, names in _LABELS.items()
        }
        places = {kind: names[0] for kind, names in there.items() if names}
        if split != "testing" and (version or not places):
            places.setdefault(version or "v1.2", _LABELS[version or "v1.2"][-1])
        found = {"image": file_names(os.path.join(folder, "images"), ".jpg")}
        found |= {kind: file_names(os.path.join(folder, place), ".png") for kind, place in places.items()}
        for name in sorted(set().union(*found.values())):
            present = frozenset(kind for kind, names in found.items() if name in names)
            labels = {kind: os.path.join(folder, place, f"{name}.png") for kind, place in places.items()}
            frames.append(Frame(split, name, os.path.join(folder, "images", f"{name}.jpg"), labels, present))
    return frames


def _opener(split: str, frames: Sequence[Frame], version: str) -> Callable[..., datasets.Dataset]:
    remedy = "unpack the zip completely, correct dataset_config, or remove the image"
    return partial(open_frames, frames, None if split == "test" else version, split, remedy=remedy)


def load_mapillary(data_dir: str | os.PathLike, version: str = "v1.2") -> datasets.DatasetDict:
    """
    Opens Mapillary Vistas. Either form is found: the release of v2.0, which brings the labels of both versions
    (`training/v1.2/labels`, `training/v2.0/labels`), or an earlier one (`training/labels`). The rows hold paths, no
    pictures.

    Args:
        data_dir (`str`): The folder with `training`, `validation` and `testing`.
        version (`str`, *optional*, defaults to `"v1.2"`): The annotations, `"v1.2"` (66 labels) or `"v2.0"` (124).

    Returns:
        `datasets.DatasetDict`: The splits that exist of train, validation and test (18,000, 2,000 and 5,000 images),
        with the columns `image` and `label` (`Image(decode=False)`) and `id` (the file's name without its suffix).
        `label` is None in test.
    """
    _check_version(version)
    root = os.path.abspath(data_dir)
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; data_dir must name the folder that holds training and validation")
    splits = by_split(find_frames(root, version), _FOLDERS)
    if not splits:
        raise InputError(
            f"{root}: no images of Mapillary Vistas found; looked for {{{','.join(NUM_IMAGES)}}}/images/*.jpg there; "
            "unpack the zip of Mapillary Vistas and give its folder as data_dir"
        )
    return datasets.DatasetDict(
        {split: _opener(split, frames, version)(complete=split != "test") for split, frames in splits.items()}
    )


def read_classes(data_dir: str | os.PathLike, version: str = "v1.2") -> tuple[LabelImage, np.ndarray]:
    """
    The labels and colors of the config file. A label file holds positions in the list `labels` of that file. Labels
    that are not evaluated, such as Unlabeled, are ignored; the others get train ids in order, 65 of them in v1.2.
    A name is the readable one where no other label has it.
    """
    _check_version(version)
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
        evaluated = [(id, label) for id, label in enumerate(labels) if label["evaluate"]]
        if not evaluated:
            raise ValueError("none of its labels is evaluated")
        names = [label["readable"] if readable[label["readable"]] == 1 else label["name"] for _, label in evaluated]
        palette = np.array([label["color"] for _, label in evaluated], np.uint8).reshape(len(evaluated), 3)
        train_ids = dict.fromkeys(range(len(labels)), IGNORE_INDEX)
        train_ids |= {id: train_id for train_id, (id, _) in enumerate(evaluated)}
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: is not the class table of Mapillary Vistas ({type(error).__name__}: {error}); expected a list "
            "`labels` of name, readable, color and evaluate: copy it again from the zip"
        ) from error
    return LabelImage(decode=False, names=names, train_ids=train_ids), palette


def _check_version(version: str) -> None:
    if version not in _LABELS:
        raise InputError(f"dataset_config: Mapillary Vistas has the versions v1.2 and v2.0, not {version}")


def open_source(args: DataArguments) -> Source:
    """Mapillary Vistas, with the labels of the version that `dataset_config` names."""
    check_fields(args, "Mapillary Vistas")
    version = args.dataset_config or "v1.2"
    root = os.path.abspath(args.data_dir)
    labels, palette = read_classes(root, version)
    splits = by_split(find_frames(root, version), _FOLDERS)
    return Source(
        where=args.data_dir,
        labels=labels,
        palette=palette,
        splits={split: _opener(split, frames, version) for split, frames in splits.items()},
        labeled=("train", "validation"),
        place=lambda split: f"{_FOLDERS.get(split, split)}/images/*.jpg",
        license=LICENSE,
    )
