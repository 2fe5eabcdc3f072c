"""Where each class is in the labels: read once, and stored label by label."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from ..errors import InputError, first_few, killed_workers
from ..files import check_writable, replacing
from .images import CorruptFileError, read_label

logger = logging.getLogger(__name__)

CENTROID = np.dtype([("row", np.int32), ("x", np.float32), ("y", np.float32)])

_STORED = {"category": List(Value("uint8")), "x": List(Value("float32")), "y": List(Value("float32"))}
_FORMAT = 2  # of the stored file: another number, and it is built anew
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


@dataclass
class ClassIndex:
    """
    Where each class is: per class an array of `CENTROID` records over the labeled rows, and over the coarse ones,
    empty for the classes that do not use them.
    """

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
        """
        Reads each label once: what was found is stored in `class_index` of the cache of `datasets`, one file for all
        data sets of the same settings, so that later only labels are read that are new or were edited. A label takes
        about 0.4 KB there, for ever; the folder can be removed at any time. With `skip_corrupt`, labels that cannot be
        read are left out with a warning.
        """
        if coarse_classes and coarse is None:
            raise InputError(
                "coarse_classes: there are no coarse annotations; set use_coarse_labels to true, or leave it out"
            )
        names, table = labeled.features["label"].names, labeled.features["label"].table
        unknown = sorted(set(coarse_classes) - set(range(len(names))))
        if unknown:
            raise InputError(
                f"coarse_classes: names {unknown}, but this data set has the classes 0 to {len(names) - 1}."
            )
        settings = {"label_table": table, "num_classes": len(names), "tile": tile}
        fine_records = _centroids_by_class(labeled, settings, num_proc, skip_corrupt)
        found = _centroids_by_class(coarse, settings, num_proc, skip_corrupt) if coarse_classes else ()
        coarse_records = [found[i] if i in coarse_classes else np.empty(0, CENTROID) for i in range(len(names))]
        absent = [name for name, *places in zip(names, fine_records, coarse_records) if not sum(map(len, places))]
        if absent:
            logger.warning("No label shows %s: class-uniform sampling skips them.", ", ".join(absent))
        return cls(fine_records, coarse_records)

    def place(self, category: int, number: int) -> tuple[int, tuple[float, float], bool]:
        """Row, (x, y) and whether it is coarse, of one of the class's places: the fine ones come first."""
        fine = self.fine[category]
        coarse = number >= len(fine)
        row, x, y = (self.coarse[category][number - len(fine)] if coarse else fine[number]).item()
        return row, (x, y), coarse


def _centroids_by_class(rows: Dataset, settings: dict, num_proc: int | None, skip_corrupt: bool) -> list[np.ndarray]:
    """The `CENTROID` records of each class, from the store, to which labels that are not there yet are added."""
    known = (_FORMAT, settings["label_table"].tolist(), settings["num_classes"], settings["tile"])
    name = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    path = Path(datasets.config.HF_DATASETS_CACHE, "class_index", f"{name}.parquet")
    try:
        store = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, ValueError):  # not there, or damaged
        store = Features(_STORED | {"key": Value("uint64")}).arrow_schema.empty_table()
    batches = rows.select_columns("label").with_format("arrow").iter(batch_size=1000)
    keys = np.array([_label_key(label) for batch in batches for label in batch["label"].to_pylist()], np.uint64)
    # A label that several rows show is read once.
    distinct, first = np.unique(keys, return_index=True)
    missing = np.sort(first[~np.isin(distinct, store["key"])])
    if len(missing):
        check_writable("HF_DATASETS_CACHE", path.parent)  # before all labels are read
        found = _read_labels(rows.select(missing), settings, num_proc, skip_corrupt)
        found = found.append_column("key", pa.array(keys[missing]))
        readable = found.filter(pc.is_null(found["corrupt"])).drop_columns("corrupt")
        store = pa.concat_tables([store, readable])
        with replacing(path) as partial:
            pq.write_table(store, partial, write_page_checksum=True)

    labels = store.take(pc.index_in(pa.array(keys), store["key"]))  # null where a label is corrupt
    counts = pc.fill_null(pc.list_value_length(labels["x"]), 0)
    category, x, y = (pc.list_flatten(labels[name]).to_numpy() for name in _STORED)
    records = np.empty(len(x), CENTROID)
    records["row"], records["x"], records["y"] = np.repeat(np.arange(len(rows)), counts), x, y
    return [records[category == i] for i in range(settings["num_classes"])]


def _label_key(label: dict) -> int:
    """What a stored label is known by: its bytes, or path, size and time of change of a file."""
    content = label["bytes"]
    if content is None:
        known = [os.path.abspath(label["path"])]
        with contextlib.suppress(OSError):  # reading it will say so
            status = os.stat(known[0])
            known += [status.st_size, status.st_mtime_ns]
        content = repr(known).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


@killed_workers()
def _read_labels(rows: Dataset, settings: dict, num_proc: int | None, skip_corrupt: bool) -> pa.Table:
    """The centroids of each row, and in `corrupt` the file of one that could not be read."""
    processes = min(num_proc or 1, len(rows) // _LABELS_PER_PROCESS)
    found = rows.select_columns("label").map(
        _row_centroids,
        fn_kwargs=settings | {"skip_corrupt": skip_corrupt},
        remove_columns="label",
        features=Features(_STORED | {"corrupt": Value("string")}),
        num_proc=processes if processes > 1 else None,
        keep_in_memory=True,
        desc="Centroids of the classes",
    )
    table = found.with_format("arrow")[:]
    files = table["corrupt"].drop_null().to_pylist()
    if files:
        count = "1 label that cannot be read is" if len(files) == 1 else f"{len(files)} labels that cannot be read are"
        logger.warning("%s left out of class-uniform sampling: %s.", count, first_few(files, 5))
    return table


def _row_centroids(
    row: dict, label_table: np.ndarray, num_classes: int, tile: int, skip_corrupt: bool
) -> dict[str, np.ndarray | str | None]:
    try:
        label = read_label(row["label"], label_table)
    except CorruptFileError as error:
        if not skip_corrupt:
            raise
        return dict.fromkeys(_STORED) | {"corrupt": error.file}
    return tile_centroids(label, num_classes, tile) | {"corrupt": None}
