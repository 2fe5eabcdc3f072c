"""Tables of paths: images and labels in folders, opened as a memory-mapped `datasets.DatasetDict`."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence

import datasets

from .pictures import check_files

_PICTURES = ("image", "label")


def open_paths(
    name: str,
    root: str | os.PathLike,
    rows: Mapping[str, Sequence[Mapping[str, str | None]]],
    config: str = "default",
) -> datasets.DatasetDict:
    """
    Opens the files of a folder as a `datasets.DatasetDict`. Only paths are stored, no pictures; the table is kept in
    the cache of `datasets` and made anew whenever a file is added, removed or of another size.

    Args:
        name (`str`): Name of the data set, such as `"cityscapes"`; the cache keeps its tables under it.
        root (`str`): The folder of the data set.
        rows (`dict[str, list[dict]]`): The rows of each split, with the same columns throughout. The columns `image`
            and `label` are paths, absolute or relative to `root` (not to the working directory), a label may be None;
            all others are strings. A split without rows is left out; there must be one with rows.
        config (`str`, *optional*, defaults to `"default"`): Which form of the data set, where it has several.

    Returns:
        `datasets.DatasetDict`: The splits, in which `image` and `label` are `Image(decode=False)` columns with
        absolute paths.

    Raises:
        InputError: A file is missing or empty.
    """
    root = os.path.abspath(root)  # a relative path would break in another working directory
    table = {split: [_absolute(row, root) for row in found] for split, found in rows.items() if found}
    files = [row[column] for found in table.values() for row in found for column in _PICTURES if row.get(column)]
    digest = hashlib.sha256(json.dumps([table, check_files(files)]).encode()).hexdigest()
    builder = _Paths(dataset_name=name, config_name=config, config_id=f"{config}-{digest[:32]}", rows=table)
    builder.download_and_prepare()
    splits = builder.as_dataset()
    return datasets.DatasetDict({split: splits[_stored_name(split)] for split in table})


def _absolute(row: Mapping[str, str | None], root: str) -> dict[str, str | None]:
    paths = {column: os.path.join(root, row[column]) for column in _PICTURES if row.get(column)}
    return {**row, **paths}


def _stored_name(split: str) -> str:
    """`datasets` allows fewer characters in a split's name than a folder's name may hold."""
    return re.sub(r"\W", "_", split)


class _Paths(datasets.GeneratorBasedBuilder):
    """Writes the rows it is given. Its `config_id` stands for them and for their files, and so keys the cache."""

    VERSION = datasets.Version("1.0.0")

    def __init__(self, rows: dict[str, list[dict]], **kwargs):
        self._rows = rows
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        columns = next(iter(self._rows.values()))[0]
        features = {
            column: datasets.Image(decode=False) if column in _PICTURES else datasets.Value("string")
            for column in columns
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(_stored_name(split), gen_kwargs={"rows": rows})
            for split, rows in self._rows.items()
        ]

    def _generate_examples(self, rows: list[dict]):
        yield from enumerate(rows)
