"""Defines what the ids in label files mean: names and train ids."""

import functools
import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
from datasets.features.features import register_feature
from PIL import Image

from ..errors import InputError
from .images import IGNORE_INDEX, read_label

NUM_IDS = 65536  # of 16 bits


@dataclass
class LabelImage(datasets.Image):
    """
    The feature of a column of labels: a `datasets.Image` that knows what the ids in it mean and decodes to train ids.

    Args:
        names (`list[str]`): The classes in the order of their train ids 0, 1, ….
        train_ids (`dict[int, int]`): Id in a label file -> train id, or 255 where pixels are ignored. No other id may
            occur.
    """

    names: list[str] = field(default_factory=list)
    train_ids: dict[int, int] = field(default_factory=dict)
    _type: str = field(default="LabelImage", init=False, repr=False)

    def __post_init__(self):
        self.train_ids = {int(key): train_id for key, train_id in self.train_ids.items()}  # JSON's keys are text

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
        _check_count("id2label", id2label)
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
            raise InputError(
                f"ignore_index: {ignore_index} is the id of class {id2label[train_id]!r}, too; {remedy}, "
                "or name an id that no class has"
            )
        ids[ignore_index] = IGNORE_INDEX
        return cls(decode=False, names=list(id2label.values()), train_ids=ids)

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> name."""
        return dict(enumerate(self.names))

    @functools.cached_property
    def table(self) -> np.ndarray:
        """(65536,) int16, id in a label file -> train id, -1 where an id may not occur; for [`read_label`]."""
        table = np.full(NUM_IDS, -1, np.int16)
        table[list(self.train_ids)] = list(self.train_ids.values())
        return table

    def decode_example(self, value: dict, token_per_repo_id: dict | None = None) -> Image.Image:
        return Image.fromarray(read_label(value, self.table))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental"; a test reads a stored table of labels
    register_feature(LabelImage, "LabelImage")


def _check_count(where: str, id2label: Mapping[int, str]) -> None:
    if not 1 <= len(id2label) <= IGNORE_INDEX:
        raise InputError(f"{where}: holds {len(id2label)} classes, there can be 1 to {IGNORE_INDEX}")


def read_id2label(path: Path) -> dict[int, str]:
    """Reads train id -> name, in the order of the ids, from a JSON file `{"0": "sky", "1": "road", …}`."""
    form = 'write it as {"0": "sky", "1": "road", …}'
    if not os.path.isfile(path):
        raise InputError(f"id2label: there is no file {path}; name the JSON file with the class names")
    try:
        # As pairs, an id that is given twice stays twice
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
        names = dict(sorted((int(key), name) for key, name in pairs))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is not a table of class names ({error}); {form}") from error
    if len(names) < len(pairs):
        raise InputError(f"{path}: an id is given twice; give each class its own id")
    for key, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: the name of class {key} is no text; {form}")
    _check_count(str(path), names)
    if list(names) != list(range(len(names))):
        renumbered = ", ".join(f'"{i}": "{name}"' for i, name in enumerate([*names.values()][:2]))
        label_map = ", ".join(f"{key}: {i}" for i, key in enumerate([*names][:2]))
        raise InputError(
            f"{path}: the ids must be 0, 1, 2, … without a gap; number the classes anew, {{{renumbered}, …}}, with "
            f"the ids in label files as label_map: {{{label_map}, …}}"
        )
    name, count = Counter(names.values()).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {name!r} is the name of two classes; give each class its own name")
    return names


def read_label_map(value: dict | str) -> dict[int, int]:
    """Reads the `label_map` of a recipe, id in a label file -> train id, and checks all but the train ids."""
    form = 'write it as {7: 0, 8: 1}, or as \'{"7": 0, "8": 1}\' on the command line'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"label_map: is not JSON ({error}); {form}") from None
    if not isinstance(value, dict) or not value:
        raise InputError(f"label_map: {value!r} is not a mapping of ids; {form}")
    try:
        ids = {int(str(key)): int(str(train_id)) for key, train_id in value.items()}
    except ValueError as error:
        raise InputError(f"label_map: holds something other than whole numbers ({error}); {form}") from None
    if len(ids) < len(value):
        raise InputError("label_map: names an id twice; leave one of them")
    if unknown := sorted(ids.keys() - range(NUM_IDS)):
        raise InputError(f"label_map: no label file can hold the id {unknown[0]}, only 0 to {NUM_IDS - 1}; correct it")
    return ids
