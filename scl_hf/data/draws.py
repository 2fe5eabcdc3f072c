"""Which crops an epoch draws, half of them placed on a class."""

import copy
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .class_index import ClassIndex

# Each stream of random numbers has its own number, so that no two of them can ever coincide.
LABELED, UNLABELED_A, UNLABELED_B, CUTMIX = range(4)


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
        skip_corrupt (`bool`, *optional*, defaults to `False`):
            Whether training goes on with another image where one cannot be read; otherwise it stops and names the
            file. Evaluation images are never skipped, nor are files that are empty or missing at the start.
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
    skip_corrupt: bool = field(
        default=False, metadata={"help": "Whether training goes on with another image where one cannot be read."}
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


class LabeledDraws:
    """
    The labelled crops of an epoch: as many as there are labelled rows (see `in_whole_batches`), part of them anywhere
    in a row of the shuffled data set, part of them placed on a class, each class equally often, on any of its places.

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
