"""
Mapillary Vistas: its folders, and the class table in its config file.

The data set is for research and may not be passed on: this module only reads a copy of your own.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np

from ..errors import InputError
from .labels import Classes
from .paths import open_paths
from .pictures import IGNORE_INDEX

# version -> the class table, and the labels of a split; the later release first, then the one of v1.0 to v1.2 alone.
_CONFIGS = {"v1.2": ("config_v1.2.json", "config.json"), "v2.0": ("config_v2.0.json",)}
LABEL_FOLDERS = {"v1.2": ("v1.2/labels", "labels"), "v2.0": ("v2.0/labels",)}
# split -> folder
_SPLITS = {"train": "training", "validation": "validation", "test": "testing"}


def load_mapillary(data_dir: str | os.PathLike, version: str = "v1.2") -> datasets.DatasetDict:
    """
    Opens Mapillary Vistas. Either form is found: the release of v2.0, which brings the labels of both versions
    (`training/v1.2/labels`, `training/v2.0/labels`), or an earlier one (`training/labels`). Only paths are stored, see
    [`~paths.open_paths`].

    Args:
        data_dir (`str`): The folder with `training`, `validation` and `testing`.
        version (`str`, *optional*, defaults to `"v1.2"`): The annotations, `"v1.2"` (66 labels) or `"v2.0"` (124).

    Returns:
        `datasets.DatasetDict`: The splits that exist of train, validation and test (18,000, 2,000 and 5,000 images),
        with the columns `image` and `label` (`Image(decode=False)`) and `id` (the file's name without its suffix).
        `label` is None in test.

    Raises:
        InputError: The folder or the splits are not there, an image lacks its label, or a file is empty.
    """
    _check_version(version)
    root = os.path.abspath(data_dir)
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; data_dir must name the folder that holds training and validation")
    rows = {split: list(_split_rows(root, split, version)) for split in _SPLITS}
    if not any(rows.values()):
        raise InputError(
            f"{root}: no images of Mapillary Vistas found; looked for {{{','.join(_SPLITS.values())}}}/images/*.jpg "
            "there; unpack the zip of Mapillary Vistas and give its folder as data_dir"
        )
    return open_paths("mapillary", root, rows, version)


def read_classes(data_dir: str | os.PathLike, version: str = "v1.2") -> Classes:
    """
    Reads the classes of Mapillary Vistas from its config file. A label file holds positions in the list `labels` of
    that file. Labels that are not evaluated, such as Unlabeled, are ignored; the others get train ids in order: 65
    of them in v1.2.

    Args:
        data_dir (`str`): The folder with the config file.
        version (`str`, *optional*, defaults to `"v1.2"`): The annotations, `"v1.2"` or `"v2.0"`.

    Returns:
        [`~labels.Classes`]: Names (the readable one where no other label has it), colours and the table of ids.

    Raises:
        InputError: The config file is not there, or holds no such list.
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
        evaluated = [label for label in labels if label["evaluate"]]
        if not evaluated:
            raise ValueError("none of its labels is evaluated")
        names = [label["readable"] if readable[label["readable"]] == 1 else label["name"] for label in evaluated]
        palette = np.array([label["color"] for label in evaluated], np.uint8).reshape(len(evaluated), 3)
        label_table = np.full(256, -1, np.int16)
        label_table[: len(labels)] = IGNORE_INDEX
        label_table[[id for id, label in enumerate(labels) if label["evaluate"]]] = range(len(evaluated))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: is not the class table of Mapillary Vistas ({type(error).__name__}: {error}); expected a list "
            "`labels` of name, readable, color and evaluate: copy it again from the zip"
        ) from error
    return Classes(dict(enumerate(names)), palette, label_table)


def _check_version(version: str) -> None:
    if version not in LABEL_FOLDERS:
        raise InputError(f"dataset_config: Mapillary Vistas has the versions v1.2 and v2.0, not {version}")


def _split_rows(root: str, split: str, version: str) -> Iterator[dict]:
    folder = Path(root, _SPLITS[split])
    if not (folder / "images").is_dir():
        return
    images = sorted(name for name in os.listdir(folder / "images") if name.endswith(".jpg"))
    if split == "test":
        yield from (_row(folder, name, None) for name in images)
        return
    labels = next((found for found in LABEL_FOLDERS[version] if (folder / found).is_dir()), LABEL_FOLDERS[version][-1])
    present = set(os.listdir(folder / labels)) if (folder / labels).is_dir() else set()
    for name in images:
        label = f"{name.removesuffix('.jpg')}.png"
        if label not in present:
            raise InputError(
                f"{folder / 'images' / name}: its label of {version} is missing, looked for "
                f"{folder / labels / label}; unpack the zip completely, correct dataset_config, or remove the image"
            )
        yield _row(folder, name, str(folder / labels / label))


def _row(folder: Path, name: str, label: str | None) -> dict:
    return {"image": str(folder / "images" / name), "label": label, "id": name.removesuffix(".jpg")}
