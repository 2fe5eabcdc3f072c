"""Where each class is in the labels: read once, and stored label by label."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from ..errors import InputError, first_few
from ..output import replacing
from .pictures import IGNORE_INDEX, CorruptFileError, read_label

logger = logging.getLogger(__name__)

CENTROID = np.dtype([("row", np.int32), ("x", np.float32), ("y", np.float32)])

_STORED = np.dtype([("category", np.uint8), ("x", np.float32), ("y", np.float32)])
_FORMAT = 1  # of the stored file: another number, and it is built anew
_LABELS_PER_PROCESS = 32  # for fewer, a further process takes longer to start than to read them


def tile_centroids(label: np.ndarray, num_classes: int, tile: int) -> dict[str, np.ndarray]:
    """
    The centroid of each class in each tile of a label (H, W) of train ids, of which those of `num_classes` and above
    are ignored: "category", "x" and "y", one entry per tile and class in it, in pixels of the image.
    """
    height, width = label.shape
    found = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = label[top : top + tile, left : left + tile]
            # Runs of one class along the rows: a hundred times fewer than pixels, and their sums are whole numbers.
            begins = np.ones(part.shape, bool)
            np.not_equal(part[:, 1:], part[:, :-1], out=begins[:, 1:])
            start = np.flatnonzero(begins)
            length = np.diff(start, append=part.size)
            row, column = np.divmod(start, part.shape[1])
            category = part[row, column]
            pixels, twice_x, y = (
                np.bincount(category, weights=weights, minlength=num_classes)[:num_classes]
                for weights in (length, length * (2 * column + length - 1), length * row)
            )
            present = np.flatnonzero(pixels)
            pixels = pixels[present]
            found.append((present, left + twice_x[present] / (2 * pixels), top + y[present] / pixels))
    return {name: np.concatenate(parts) for name, parts in zip(("category", "x", "y"), zip(*found))}


class ClassIndex:
    """
    Where each class is: per class an array of `CENTROID` records over the labelled rows, and over the coarse ones,
    empty for the classes that do not use them.
    """

    def __init__(self, fine: Sequence[np.ndarray], coarse: Sequence[np.ndarray]):
        self.fine = list(fine)
        self.coarse = list(coarse)

    @classmethod
    def build(
        cls,
        labeled: Dataset,
        coarse: Dataset | None = None,
        tile: int = 1024,
        coarse_classes: Sequence[int] = (),
        num_proc: int | None = None,
        skip_corrupt: bool = False,
    ) -> "ClassIndex":
        """
        Reads each label of rows with a [`LabelImage`] column once. What was found is stored in `class_index` of the
        cache of `datasets`, one file for all data sets of the same settings, so that later only labels are read that
        are new or were edited: a file is known by its path, size and time of change, a label inside a data set by its
        bytes. A label takes about 0.3 KB there, also after it was edited or deleted; the folder can be removed at any
        time. With `skip_corrupt`, labels that cannot be read are left out with a warning.
        """
        if coarse_classes and coarse is None:
            raise InputError(
                "coarse_classes: there are no coarse annotations; set use_coarse_labels to true, or leave it out"
            )
        names, label_table = labeled.features["label"].names, labeled.features["label"].table
        num_classes = len(names)
        unknown = sorted(set(coarse_classes) - set(range(num_classes)))
        if unknown:
            raise InputError(
                f"coarse_classes: names {unknown}, but this data set has the classes 0 to {num_classes - 1}."
            )
        settings = {"label_table": label_table, "num_classes": num_classes, "tile": tile}
        fine_records = _centroids_by_class(labeled, settings, num_proc, skip_corrupt)
        coarse_records = [np.empty(0, CENTROID)] * num_classes
        if coarse is not None and coarse_classes:
            of_all = _centroids_by_class(coarse, settings, num_proc, skip_corrupt)
            for category in coarse_classes:
                coarse_records[category] = of_all[category]
        absent = [name for name, *places in zip(names, fine_records, coarse_records) if not sum(map(len, places))]
        if absent:
            logger.warning("No label shows %s: class-uniform sampling skips them.", ", ".join(absent))
        return cls(fine_records, coarse_records)

    def candidates(self, category: int, use_coarse: bool) -> int:
        """Number of places where a crop of the class can be put."""
        return len(self.fine[category]) + (len(self.coarse[category]) if use_coarse else 0)

    def place(self, category: int, number: int) -> tuple[int, tuple[float, float], bool]:
        """Row, (x, y) and whether it is coarse, of one of the class's places: the fine ones come first."""
        coarse = number >= len(self.fine[category])
        records = self.coarse[category] if coarse else self.fine[category]
        row, x, y = records[number - len(self.fine[category]) if coarse else number].item()
        return row, (x, y), coarse


class _Store(NamedTuple):
    """Labels and their centroids: the first `counts[0]` centroids are those of `keys[0]`, and so on."""

    keys: np.ndarray
    counts: np.ndarray
    centroids: np.ndarray

    def joined(self, other: "_Store") -> "_Store":
        return _Store(*map(np.concatenate, zip(self, other)))

    @classmethod
    def load(cls, path: Path) -> "_Store":
        try:
            with np.load(path) as arrays:
                return cls(*(arrays[name] for name in cls._fields))
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile):  # not there, or damaged
            return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, _STORED))

    def save(self, path: Path) -> None:
        with replacing(path) as partial:
            np.savez(partial, **self._asdict())


def _centroids_by_class(rows: Dataset, settings: dict, num_proc: int | None, skip_corrupt: bool) -> list[np.ndarray]:
    path = Path(datasets.config.HF_DATASETS_CACHE, "class_index", f"{_settings_digest(**settings)}.npz")
    store = _Store.load(path)
    keys = np.fromiter(_label_keys(rows), np.uint64, len(rows))
    # A label that several rows show is read once.
    distinct, first = np.unique(keys, return_index=True)
    missing = np.sort(first[~np.isin(distinct, store.keys)])
    if len(missing):
        found, corrupt = _read_labels(rows.select(missing), settings, num_proc, skip_corrupt)
        found = found._replace(keys=keys[missing])
        readable = found._replace(keys=found.keys[~corrupt], counts=found.counts[~corrupt])
        if len(readable.keys):
            store.joined(readable).save(path)
        store = store.joined(found)

    by_key = np.argsort(store.keys)
    labels = by_key[np.searchsorted(store.keys, keys, sorter=by_key)]
    counts = store.counts[labels]
    # Where a row's centroids begin in the store, less where they begin among the records.
    shift = (np.cumsum(store.counts) - store.counts)[labels] - (np.cumsum(counts) - counts)
    centroids = store.centroids[np.repeat(shift, counts) + np.arange(counts.sum())]
    records = np.empty(len(centroids), CENTROID)
    records["row"] = np.repeat(np.arange(len(rows)), counts)
    records["x"], records["y"] = centroids["x"], centroids["y"]
    return [records[centroids["category"] == i] for i in range(settings["num_classes"])]


def _settings_digest(label_table: np.ndarray, num_classes: int, tile: int) -> str:
    return hashlib.sha256(repr((_FORMAT, label_table.tolist(), num_classes, tile)).encode()).hexdigest()[:16]


def _label_keys(rows: Dataset) -> Iterator[int]:
    for batch in rows.select_columns("label").with_format("arrow").iter(batch_size=1000):
        labels = batch["label"].combine_chunks()
        for path, stored in zip(pc.struct_field(labels, "path").to_pylist(), pc.struct_field(labels, "bytes")):
            content = stored.as_buffer() if stored.is_valid else _file_state(path)
            yield int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _file_state(path: str) -> bytes:
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
    except OSError:  # reading it will say so
        return repr(path).encode()
    return repr((path, status.st_size, status.st_mtime_ns)).encode()


def _read_labels(rows: Dataset, settings: dict, num_proc: int | None, skip_corrupt: bool) -> tuple[_Store, np.ndarray]:
    """The centroids of each row, still without the labels' keys, and which rows could not be read."""
    processes = min(num_proc or 1, len(rows) // _LABELS_PER_PROCESS)
    numbers = {"category": List(Value("uint8")), "x": List(Value("float32")), "y": List(Value("float32"))}
    found = rows.select_columns("label").map(
        _row_centroids,
        fn_kwargs=settings | {"skip_corrupt": skip_corrupt},
        remove_columns="label",
        features=Features(numbers | {"corrupt": Value("string")}),
        num_proc=processes if processes > 1 else None,
        keep_in_memory=True,
        desc="Centroids of the classes",
    )
    table = found.with_format("arrow")[:]
    corrupt = pc.is_valid(table["corrupt"]).to_numpy()
    if corrupt.any():
        files = table["corrupt"].drop_null().to_pylist()
        count = "1 label that cannot be read is" if len(files) == 1 else f"{len(files)} labels that cannot be read are"
        logger.warning("%s left out of class-uniform sampling: %s.", count, first_few(files, 5))
    lists = {name: table[name].combine_chunks() for name in numbers}
    centroids = np.empty(len(lists["x"].flatten()), _STORED)
    for name, values in lists.items():
        centroids[name] = values.flatten().to_numpy()
    counts = pc.list_value_length(lists["x"]).to_numpy(zero_copy_only=False).astype(np.int64)
    return _Store(np.empty(0, np.uint64), counts, centroids), corrupt


def _row_centroids(
    row: dict, label_table: np.ndarray, num_classes: int, tile: int, skip_corrupt: bool
) -> dict[str, np.ndarray | str | None]:
    corrupt = None
    try:
        label = read_label(row["label"], label_table)
    except CorruptFileError as error:
        if not skip_corrupt:
            raise
        label, corrupt = np.full((1, 1), IGNORE_INDEX, np.uint8), error.file
    return tile_centroids(label, num_classes, tile) | {"corrupt": corrupt}
