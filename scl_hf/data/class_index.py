"""Finds where and how often each class is in the labels, in one pass that `datasets` caches."""

import contextlib
import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from ..errors import InputError, first_few, killed_workers
from ..files import check_writable, writing
from .columns import with_names
from .images import IGNORE_INDEX, CorruptFileError, files_of
from .labels import LabelImage, read_label

logger = logging.getLogger(__name__)

CENTROID = np.dtype([("row", np.int32), ("x", np.float32), ("y", np.float32), ("pixels", np.int64)])

_TYPES = {"category": "uint8", "x": "float32", "y": "float32", "pixels": "int64"}
_COLUMNS = {name: List(Value(dtype)) for name, dtype in _TYPES.items()}
_VERSION = 1  # of what is cached: with another number, labels are read anew
_LABELS_PER_PROCESS = 32  # for fewer, a further process takes longer to start than to read them
_MOST_LABELS = 500  # more labels change a share less than unlabeled images differ


def tile_centroids(label: np.ndarray, num_classes: int, tile: int) -> dict[str, np.ndarray]:
    """Returns `_COLUMNS` of a label (H, W) of train ids, an entry per tile and class below `num_classes` in it."""
    found = []
    for top, left in itertools.product(*(range(0, side, tile) for side in label.shape)):
        part = label[top : top + tile, left : left + tile]
        # Runs of one class within the lines: a hundred times fewer than pixels, and their sums are whole numbers.
        begins = np.ones(part.shape, bool)
        np.not_equal(part[:, 1:], part[:, :-1], out=begins[:, 1:])
        start = np.flatnonzero(begins)
        length = np.diff(start, append=part.size)
        line, column = np.divmod(start, part.shape[1])
        category = part[line, column]
        pixels, twice_x, y = (
            np.bincount(category, weights=weights, minlength=num_classes)[:num_classes]
            for weights in (length, length * (2 * column + length - 1), length * line)
        )
        present = np.flatnonzero(pixels)
        pixels = pixels[present]
        found.append((present, left + twice_x[present] / (2 * pixels), top + y[present] / pixels, pixels))
    return {name: np.concatenate(parts) for name, parts in zip(_COLUMNS, zip(*found))}


@dataclass
class ClassIndex:
    """Centroids of each class: `CENTROID` records of the labeled and, if it is used, of the coarse dataset."""

    fine: list[np.ndarray]
    coarse: list[np.ndarray]

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
        """Reads each label, once until it is edited. `skip_corrupt` leaves unreadable ones out, with a warning."""
        if coarse_classes and coarse is None:
            raise InputError("coarse_classes: needs coarse labels; set use_coarse_labels to true, or leave it out")
        names = labeled.features["label"].names
        if unknown := sorted(set(coarse_classes) - set(range(len(names)))):
            raise InputError(f"coarse_classes: names {unknown}, but the dataset has the classes 0 to {len(names) - 1}")
        fine = _centroids_by_class(labeled, tile, num_proc, skip_corrupt)
        found = _centroids_by_class(coarse, tile, num_proc, skip_corrupt) if coarse_classes else ()
        index = cls(fine, [found[i] if i in coarse_classes else fine[i][:0] for i in range(len(names))])
        if absent := [name for name, count in zip(names, index.counts()) if not count]:
            logger.warning("No label shows %s: class-uniform sampling skips them.", ", ".join(absent))
        return index

    def counts(self, use_coarse: bool = True) -> list[int]:
        """Returns the number of centroids of each class."""
        return [len(fine) + use_coarse * len(coarse) for fine, coarse in zip(self.fine, self.coarse)]

    def centroid(self, category: int, number: int) -> tuple[int, tuple[float, float], bool]:
        """Returns row, (x, y) and whether it is coarse, of one centroid of a class; the fine ones come first."""
        fine = self.fine[category]
        coarse = number >= len(fine)
        row, x, y, _ = (self.coarse[category][number - len(fine)] if coarse else fine[number]).item()
        return row, (x, y), coarse


def class_shares(labeled: Dataset, index: ClassIndex | None = None) -> np.ndarray:
    """Returns each class's share of the labeled pixels, (num_classes,) float64; without an index, of 500 labels."""
    if index is not None:
        counts = np.array([records["pixels"].sum() for records in index.fine])
    else:
        feature, counts = labeled.features["label"], np.zeros(IGNORE_INDEX + 1, np.int64)
        chosen = np.unique(np.linspace(0, len(labeled) - 1, min(len(labeled), _MOST_LABELS)).astype(int))
        labels = labeled.select_columns(["label", "id"])
        for row in chosen.tolist():
            with contextlib.suppress(CorruptFileError):
                ids = read_label(with_names(labels[row], row)["label"], feature)
                counts += np.bincount(ids.ravel(), minlength=len(counts))
        counts = counts[: len(feature.names)]
    return counts / max(1, counts.sum())


def _centroids_by_class(dataset: Dataset, tile: int, num_proc: int | None, skip_corrupt: bool) -> list[np.ndarray]:
    """Returns the `CENTROID` records of each class."""
    found = _read_labels(dataset.select_columns(["label", "id"]), tile, num_proc, skip_corrupt).with_format("arrow")[:]
    if files := found["corrupt"].drop_null().to_pylist():
        count = "1 label that cannot be read is" if len(files) == 1 else f"{len(files)} labels that cannot be read are"
        logger.warning("%s left out of class-uniform sampling: %s.", count, first_few(files, 5))
    columns = {name: pc.list_flatten(found[name]).to_numpy() for name in _COLUMNS}
    records = np.empty(len(columns["x"]), CENTROID)
    records["row"] = np.repeat(np.arange(len(dataset)), pc.fill_null(pc.list_value_length(found["x"]), 0))
    for name in ("x", "y", "pixels"):
        records[name] = columns[name]
    return [records[columns["category"] == i] for i in range(len(dataset.features["label"].names))]


@killed_workers()
def _read_labels(labels: Dataset, tile: int, num_proc: int | None, skip_corrupt: bool) -> Dataset:
    """Returns per label the columns of [`tile_centroids`], and in "corrupt" the file of one that cannot be read."""
    feature = labels.features["label"]
    fingerprint = _fingerprint(labels, feature, tile, skip_corrupt)
    path = Path(datasets.config.HF_DATASETS_CACHE, "class_index", f"{fingerprint}.arrow")
    if not any(path.parent.glob(f"{fingerprint}*")):
        check_writable("HF_DATASETS_CACHE", path.parent)  # before all labels are read
        path.parent.mkdir(parents=True, exist_ok=True)
    processes = min(num_proc or 1, len(labels) // _LABELS_PER_PROCESS)
    options = {
        "with_indices": True,
        "remove_columns": labels.column_names,
        "fn_kwargs": {"feature": feature, "tile": tile, "skip_corrupt": skip_corrupt},
        "features": Features(_COLUMNS | {"corrupt": Value("string")}),
        "num_proc": processes if processes > 1 else None,
        "cache_file_name": str(path),
        "new_fingerprint": fingerprint,
        "desc": "Reading the labels",
    }
    with writing(str(path), path.parent):
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # the cached file is damaged
            found = labels.map(_describe_label, **options)
            skipped = np.flatnonzero(found.data.column("corrupt").is_valid()).tolist()
            if not any(_describe_label(labels[i], i, feature, tile, True)["corrupt"] is None for i in skipped):
                return found  # otherwise a label can be read again that could not for a moment
        return labels.map(_describe_label, **options, load_from_cache_file=False)


def _fingerprint(labels: Dataset, *settings: object) -> str:
    """Hashes the settings and each label's bytes, or path, size and time of change of its files."""
    known = hashlib.sha256(repr((_VERSION, *settings)).encode())
    for batch in labels.with_format("arrow").iter(batch_size=1000):
        for label in batch["label"].to_pylist():
            content = label["bytes"]
            if content is None:
                path = os.path.abspath(label["path"])
                content = path.encode()
                for file in files_of(path):
                    with contextlib.suppress(OSError):  # reading it names the file
                        status = os.stat(file)
                        content += f"{file.removeprefix(path)} {status.st_size} {status.st_mtime_ns}".encode()
            known.update(hashlib.sha256(content).digest())
    return known.hexdigest()[:32]


def _describe_label(example: dict, row: int, feature: LabelImage, tile: int, skip_corrupt: bool) -> dict:
    try:
        ids = read_label(with_names(example, row)["label"], feature)
    except CorruptFileError as error:
        if not skip_corrupt:
            raise
        return dict.fromkeys(_COLUMNS) | {"corrupt": error.file}
    return tile_centroids(ids, len(feature.names), tile) | {"corrupt": None}
