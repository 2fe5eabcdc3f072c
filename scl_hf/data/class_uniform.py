"""Where each class is, and which crops an epoch draws."""

import copy
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from ..errors import InputError
from .files import read_label

logger = logging.getLogger(__name__)

# Each stream of random numbers has its own number, so that no two of them can ever coincide.
LABELED, UNLABELED_A, UNLABELED_B, CUTMIX = range(4)

CENTROID = np.dtype([("row", np.int32), ("x", np.float32), ("y", np.float32)])


@dataclass
class SamplingArguments:
    """
    How the labelled crops of an epoch are chosen (class-uniform sampling of Zhu et al., 2019).

    Args:
        class_uniform_share (`float`, *optional*, defaults to 0.5):
            Share of an epoch's crops that are placed on a class, each class equally often.
        class_uniform_tile (`int`, *optional*, defaults to 1024):
            Side in pixels of the tiles in which the centroids of the classes are taken.
        coarse_classes (`list[int]`, *optional*, defaults to `[]`):
            Class ids for which the coarse annotations join.
        coarse_until_epoch (`int`, *optional*):
            First epoch without the coarse annotations; to the end of the training when not given.
    """

    class_uniform_share: float = field(
        default=0.5,
        metadata={"help": "Share of an epoch's crops that are placed on a class, each class equally often."},
    )
    class_uniform_tile: int = field(
        default=1024, metadata={"help": "Side in pixels of the tiles in which the centroids of the classes are taken."}
    )
    coarse_classes: list[int] = field(
        default_factory=list, metadata={"help": "Class ids for which the coarse annotations join."}
    )
    coarse_until_epoch: int | None = field(
        default=None,
        metadata={"help": "First epoch without the coarse annotations; to the end of the training when not given."},
    )

    def __post_init__(self):
        if not 0 <= self.class_uniform_share <= 1:
            raise InputError(f"class_uniform_share: must be 0 to 1, got {self.class_uniform_share}.")
        if self.class_uniform_tile < 1:
            raise InputError(f"class_uniform_tile: must be 1 or more, got {self.class_uniform_tile}.")
        if any(category < 0 for category in self.coarse_classes):
            raise InputError(f"coarse_classes: must be class ids, 0 or more, got {self.coarse_classes}.")
        if self.coarse_until_epoch is not None and self.coarse_until_epoch < 0:
            raise InputError(f"coarse_until_epoch: must be 0 or more, got {self.coarse_until_epoch}.")


@dataclass(frozen=True)
class Draw:
    """
    One crop to be taken, with everything random about it.

    Args:
        row (`int`): Row of the labelled data set, of the coarse one where `coarse`, or of the unlabelled one.
        seed (`int`): 63-bit seed of the crop's augmentation.
        center (`tuple[float, float]`, *optional*):
            (x, y) in pixels of the stored image that the crop should show; anywhere when `None`.
        coarse (`bool`, *optional*, defaults to `False`): Whether the row is one of the coarse annotations.
    """

    row: int
    seed: int
    center: tuple[float, float] | None = None
    coarse: bool = False


def draw_seed(seed: int, stream: int, epoch: int, position: int) -> int:
    """The 63-bit seed that belongs to one position of one epoch of a stream."""
    return int(np.random.SeedSequence([seed, stream, epoch, position]).generate_state(1, np.uint64)[0] >> 1)


def shuffled_rows(num_rows: int, start: int, stop: int, seed: int, stream: int) -> np.ndarray:
    """Positions `start` to `stop` of an endless stream of rows that shows each row once before it repeats any."""
    cycles = range(start // num_rows, -(-stop // num_rows))
    rows = [np.random.default_rng([seed, stream, cycle]).permutation(num_rows) for cycle in cycles]
    offset = start // num_rows * num_rows
    return np.concatenate([np.empty(0, np.int64), *rows])[start - offset : stop - offset]


def tile_centroids(label: np.ndarray, num_classes: int, tile: int) -> dict[str, np.ndarray]:
    """
    The centroid of each class in each tile of a label image.

    Args:
        label (`np.ndarray`): (H, W) uint8 train ids; ids of `num_classes` and above are ignored.
        num_classes (`int`): Number of classes.
        tile (`int`): Side of the tiles in pixels; the tiles at the right and lower border may be smaller.

    Returns:
        `dict[str, np.ndarray]`: "category", "x" and "y", one entry per tile and class in it, in pixels of the image.
    """
    height, width = label.shape
    found = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = np.minimum(label[top : top + tile, left : left + tile], num_classes).astype(np.intp)
            rows, columns = part.shape
            # Two histograms, class by column and class by row, hold the counts and both coordinate sums.
            by_column = np.bincount(
                (part * columns + np.arange(columns)).ravel(), minlength=(num_classes + 1) * columns
            )
            by_row = np.bincount((part * rows + np.arange(rows)[:, None]).ravel(), minlength=(num_classes + 1) * rows)
            by_column, by_row = by_column.reshape(-1, columns)[:num_classes], by_row.reshape(-1, rows)[:num_classes]
            pixels = by_column.sum(axis=1)
            category = np.flatnonzero(pixels)
            x = left + by_column[category] @ np.arange(columns) / pixels[category]
            y = top + by_row[category] @ np.arange(rows) / pixels[category]
            found.append((category, x, y))
    return {name: np.concatenate(parts) for name, parts in zip(("category", "x", "y"), zip(*found))}


class ClassIndex:
    """
    Where each class is: its centroids in the tiles of the fine and of the coarse labels.

    Args:
        fine (`Sequence[np.ndarray]`): Per class an array of [`CENTROID`] records over the labelled rows.
        coarse (`Sequence[np.ndarray]`): The same over the coarse rows, empty for the classes that do not use them.
    """

    def __init__(self, fine: Sequence[np.ndarray], coarse: Sequence[np.ndarray]):
        self.fine = list(fine)
        self.coarse = list(coarse)

    @classmethod
    def build(
        cls,
        labeled: Dataset,
        coarse: Dataset | None,
        label_table: np.ndarray | None,
        id2label: dict[int, str],
        tile: int = 1024,
        coarse_classes: Sequence[int] = (),
        num_proc: int | None = None,
    ) -> "ClassIndex":
        """
        Reads every label once. The result lies in the cache of `datasets`, beside the data set, under a digest of the
        label files (path, size, time of change) and of the settings: an edited label is read again. Rows that are in
        memory, as those of a folder of one's own, have no cache and are read at each start.

        Args:
            labeled (`Dataset`): Rows with a `label` column.
            coarse (`Dataset`, *optional*): Rows with a `label` column of coarse annotations.
            label_table (`np.ndarray`, *optional*): Id on disk to train id, see [`~scl_hf.data.files.read_label`].
            id2label (`dict[int, str]`): Class names by train id.
            tile (`int`, *optional*, defaults to 1024): Side of the tiles in pixels.
            coarse_classes (`Sequence[int]`, *optional*): Classes for which the coarse annotations are read.
            num_proc (`int`, *optional*): Number of processes that read the labels.

        Returns:
            `ClassIndex`: Classes that occur nowhere are named in a warning.
        """
        num_classes = len(id2label)
        unknown = sorted(set(coarse_classes) - set(range(num_classes)))
        if unknown:
            raise InputError(
                f"coarse_classes: names {unknown}, but this data set has the classes 0 to {num_classes - 1}."
            )
        fine_records = _centroids_by_class(labeled, label_table, num_classes, tile, num_proc)
        coarse_records = [np.empty(0, CENTROID)] * num_classes
        if coarse is not None and coarse_classes:
            of_all = _centroids_by_class(coarse, label_table, num_classes, tile, num_proc)
            for category in coarse_classes:
                coarse_records[category] = of_all[category]
        absent = [id2label[i] for i in range(num_classes) if not len(fine_records[i]) + len(coarse_records[i])]
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


def _centroids_by_class(
    rows: Dataset, label_table: np.ndarray | None, num_classes: int, tile: int, num_proc: int | None
) -> list[np.ndarray]:
    labels = rows.select_columns("label")
    found = labels.map(
        _row_centroids,
        fn_kwargs={"label_table": label_table, "num_classes": num_classes, "tile": tile},
        remove_columns="label",
        features=Features(
            {"category": List(Value("uint8")), "x": List(Value("float32")), "y": List(Value("float32"))}
        ),
        num_proc=num_proc,
        new_fingerprint=_label_digest(labels, label_table, num_classes, tile),
        desc="Centroids of the classes",
    ).with_format("arrow")[:]
    lists = {name: found[name].combine_chunks() for name in ("category", "x", "y")}
    records = np.empty(len(lists["x"].flatten()), CENTROID)
    records["row"] = np.repeat(np.arange(len(rows)), pc.list_value_length(lists["x"]).to_numpy(zero_copy_only=False))
    records["x"], records["y"] = lists["x"].flatten().to_numpy(), lists["y"].flatten().to_numpy()
    category = lists["category"].flatten().to_numpy()
    return [records[category == i] for i in range(num_classes)]


def _row_centroids(row: dict, label_table: np.ndarray | None, num_classes: int, tile: int) -> dict[str, np.ndarray]:
    return tile_centroids(read_label(row["label"], label_table), num_classes, tile)


def _label_digest(labels: Dataset, label_table: np.ndarray | None, num_classes: int, tile: int) -> str:
    digest = hashlib.sha256(repr((len(labels), num_classes, tile)).encode())
    digest.update(b"" if label_table is None else label_table.tobytes())
    for batch in labels.with_format("arrow").iter(batch_size=1000):
        files = batch["label"].combine_chunks()
        if pc.struct_field(files, "bytes").null_count < len(files):
            # Embedded images cannot be edited behind the data set's back: its own fingerprint stands for them.
            digest.update(labels._fingerprint.encode())
            break
        for path in pc.struct_field(files, "path").to_pylist():
            status = os.stat(path)
            digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


class LabeledDraws:
    """
    The labelled crops of an epoch: as many as there are labelled rows (see `in_whole_batches`), part of them anywhere
    in a row of the shuffled data set, part of them placed on a class, each class equally often.

    Args:
        num_rows (`int`): Number of labelled rows.
        seed (`int`): Seed of the run.
        class_index ([`ClassIndex`], *optional*): Where the classes are; without it all crops are anywhere.
        class_uniform_share (`float`, *optional*, defaults to 0.5): Share of the crops that are placed on a class.
        coarse_until_epoch (`int`, *optional*): First epoch without coarse annotations; used throughout when `None`.
    """

    def __init__(
        self,
        num_rows: int,
        seed: int,
        class_index: ClassIndex | None = None,
        class_uniform_share: float = 0.5,
        coarse_until_epoch: int | None = None,
    ):
        if num_rows < 1:
            raise InputError("there is no labelled image: give a data set or a labelled share with at least one.")
        self.num_rows = num_rows
        self.length = num_rows
        self.seed = seed
        self.class_index = class_index
        self.class_uniform_share = class_uniform_share
        self.coarse_until_epoch = coarse_until_epoch

    def in_whole_batches(self, batch_size: int) -> "LabeledDraws":
        """The same draws with an epoch that is rounded up, so that no step trains on less than a batch."""
        draws = copy.copy(self)
        draws.length = -(-self.num_rows // batch_size) * batch_size
        return draws

    def __len__(self) -> int:
        return self.length

    def __call__(self, epoch: int) -> list[Draw]:
        """The draws of an epoch, counted from 0, in order."""
        rng = np.random.default_rng([self.seed, LABELED, epoch])
        places = self._class_places(epoch, rng)
        num_uniform = self.length - len(places)
        rows = shuffled_rows(self.num_rows, epoch * num_uniform, (epoch + 1) * num_uniform, self.seed, LABELED)
        places += [(int(row), None, False) for row in rows]
        return [
            Draw(row, draw_seed(self.seed, LABELED, epoch, position), center, coarse)
            for position, (row, center, coarse) in enumerate(places[i] for i in rng.permutation(len(places)))
        ]

    def _class_places(
        self, epoch: int, rng: np.random.Generator
    ) -> list[tuple[int, tuple[float, float] | None, bool]]:
        if self.class_index is None:
            return []
        use_coarse = self.coarse_until_epoch is None or epoch < self.coarse_until_epoch
        index = self.class_index
        counts = {i: index.candidates(i, use_coarse) for i in range(len(index.fine))}
        present = [i for i, count in counts.items() if count]
        if not present:
            return []
        # The shuffle decides which classes get one crop more where the number does not divide evenly.
        categories = np.resize(rng.permutation(present), round(self.class_uniform_share * self.length))
        return [index.place(i, int(rng.integers(counts[i]))) for i in categories.tolist()]


class UnlabeledDraws:
    """
    The unlabelled crops of an epoch, from an endless stream that shows each row once before it repeats any: epoch e
    takes its positions e·length to (e+1)·length.

    Args:
        num_rows (`int`): Number of unlabelled rows.
        length (`int`): Draws per epoch, as many as the labelled ones.
        seed (`int`): Seed of the run.
        stream (`int`): `UNLABELED_A` or `UNLABELED_B`.
    """

    def __init__(self, num_rows: int, length: int, seed: int, stream: int):
        if num_rows < 1:
            raise InputError("there is no unlabelled image: give some, or set both consistency weights to 0.")
        self.num_rows = num_rows
        self.length = length
        self.seed = seed
        self.stream = stream

    def __len__(self) -> int:
        return self.length

    def __call__(self, epoch: int) -> list[Draw]:
        """The draws of an epoch, counted from 0, in order."""
        rows = shuffled_rows(self.num_rows, epoch * self.length, (epoch + 1) * self.length, self.seed, self.stream)
        return [Draw(int(row), draw_seed(self.seed, self.stream, epoch, i)) for i, row in enumerate(rows)]
