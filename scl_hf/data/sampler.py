"""Which crops an epoch draws: labeled ones, part of them placed on a class, and unlabeled ones beside them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from ..errors import InputError, check_field
from .class_index import ClassIndex

# Each stream of random numbers has its own number, so that no two of them can ever coincide.
LABELED, UNLABELED_A, UNLABELED_B, CUTMIX = range(4)


@dataclass
class SamplingArguments:
    """
    How the crops of an epoch are chosen: class-uniform sampling of Zhu et al. (2019).

    Args:
        class_uniform_share (`float`, *optional*, defaults to 0.5):
            Share of an epoch's labeled crops that are placed on a class, each class equally often.
        class_uniform_tile (`int`, *optional*, defaults to 512):
            Side in pixels of the tiles in which the centroids of the classes are taken.
        coarse_classes (`list[int]`, *optional*, defaults to `[]`): Class ids for which the coarse annotations join.
        coarse_until_epoch (`int`, *optional*):
            First epoch without the coarse annotations. Without it they are used to the end of the training.
        skip_corrupt (`bool`, *optional*, defaults to `False`):
            Whether training goes on with another image where one cannot be read. Otherwise it stops and names the
            file. Evaluation images are never skipped, nor are files that are empty or missing at the start.
    """

    class_uniform_share: float = 0.5
    class_uniform_tile: int = 512
    coarse_classes: list[int] = field(default_factory=list)
    coarse_until_epoch: int | None = None
    skip_corrupt: bool = False

    def __post_init__(self):
        check_field(self, "class_uniform_share", 0 <= self.class_uniform_share <= 1, "0 to 1")
        check_field(self, "class_uniform_tile", self.class_uniform_tile >= 1, "1 or more")
        check_field(self, "coarse_classes", min(self.coarse_classes, default=0) >= 0, "class ids, 0 or more")
        until = self.coarse_until_epoch
        check_field(self, "coarse_until_epoch", until is None or until >= 0, "0 or more")


class Sample(NamedTuple):
    """One crop to be taken, with everything random about it."""

    row: int  # of the labeled rows, of the coarse ones where `coarse`, or of the unlabeled ones
    seed: int  # 63 bits, of the crop's augmentation
    center: tuple[float, float] | None = None  # (x, y) in pixels of the stored image to be shown; None: anywhere
    coarse: bool = False


class Place(NamedTuple):
    """Where a labeled crop is taken."""

    row: int  # as of a draw
    center: tuple[float, float] | None = None
    coarse: bool = False
    category: int | None = None  # the class that it is placed on; None: anywhere


class PairSample(NamedTuple):
    """
    One position of an epoch: a labeled crop, the unlabeled u_a and u_b, if any, and the seed of what is drawn at the
    mixing. Without a u_b it is the next position's u_a.
    """

    labeled: Sample
    unlabeled_a: Sample | None
    unlabeled_b: Sample | None
    cutmix_seed: int


def sample_seed(seed: int, stream: int, epoch: int, position: int) -> int:
    """The 63-bit seed that belongs to one position of one epoch of a stream."""
    return int(np.random.SeedSequence([seed, stream, epoch, position]).generate_state(1, np.uint64)[0] >> 1)


def shuffled_indices(num_rows: int, start: int, stop: int, seed: int, stream: int) -> np.ndarray:
    """Positions `start` to `stop` of an endless stream of rows that shows each row once before it repeats any."""
    cycles = range(start // num_rows, -(-stop // num_rows))
    rows = [np.random.default_rng([seed, stream, cycle]).permutation(num_rows) for cycle in cycles]
    offset = start // num_rows * num_rows
    return np.concatenate([np.empty(0, np.int64), *rows])[start - offset : stop - offset]


@dataclass
class LabeledSampler:
    """
    The labeled crops of an epoch: as many as there are labeled rows, rounded up to whole batches. Part of them lie
    anywhere in a row of the shuffled data set, part on a class, each class equally often, on any of its places.
    Without a class index all are anywhere.
    """

    num_rows: int
    seed: int
    class_index: ClassIndex | None = None
    class_uniform_share: float = 0.5
    coarse_until_epoch: int | None = None
    batch_size: int = 1  # no step trains on less

    def __post_init__(self):
        if self.num_rows < 1:
            raise InputError("there is no labeled image: give a data set or a labeled share with at least one.")

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size) * self.batch_size

    def __call__(self, epoch: int, first: int = 0) -> list[Sample]:
        """The draws of an epoch, counted from 0, in order, from the position `first` on."""
        return [
            Sample(place.row, sample_seed(self.seed, LABELED, epoch, position), place.center, place.coarse)
            for position, place in enumerate(self.places(epoch)[first:], first)
        ]

    def places(self, epoch: int) -> list[Place]:
        """What the draws of an epoch show, in order, without the seeds, which take most of the time."""
        rng = np.random.default_rng([self.seed, LABELED, epoch])
        places = self._class_places(epoch, rng)
        num_uniform = len(self) - len(places)
        rows = shuffled_indices(self.num_rows, epoch * num_uniform, (epoch + 1) * num_uniform, self.seed, LABELED)
        places += [Place(row) for row in rows.tolist()]
        return [places[i] for i in rng.permutation(len(places))]

    def _class_places(self, epoch: int, rng: np.random.Generator) -> list[Place]:
        if self.class_index is None:
            return []
        use_coarse = self.coarse_until_epoch is None or epoch < self.coarse_until_epoch
        index = self.class_index
        counts = [len(fine) + use_coarse * len(coarse) for fine, coarse in zip(index.fine, index.coarse)]
        present = np.flatnonzero(counts)
        if not len(present):
            return []
        # The shuffle decides which classes get one crop more where the number does not divide evenly.
        categories = np.resize(rng.permutation(present), round(self.class_uniform_share * len(self)))
        return [Place(*index.place(i, int(rng.integers(counts[i]))), i) for i in categories.tolist()]


@dataclass
class UnlabeledSampler:
    """The unlabeled crops of an epoch: of epoch e the positions e·length to (e+1)·length of [`shuffled_indices`]."""

    num_rows: int
    length: int
    seed: int
    stream: int  # UNLABELED_A or UNLABELED_B

    def __post_init__(self):
        if self.num_rows < 1:
            raise InputError("there is no unlabeled image: give some, or set both consistency weights to 0.")

    def __call__(self, epoch: int, first: int = 0) -> list[Sample]:
        """The draws of an epoch, counted from 0, in order, from the position `first` on."""
        start, stop = epoch * self.length + first, (epoch + 1) * self.length
        rows = shuffled_indices(self.num_rows, start, stop, self.seed, self.stream)
        return [Sample(int(row), sample_seed(self.seed, self.stream, epoch, i)) for i, row in enumerate(rows, first)]


class PairSampler(Sampler[PairSample]):
    """
    Yields the draws of an epoch, in whole batches of a step. They are values that carry their own seeds, so workers
    and processes, however many, and a resumed run take the same crops. Each has `unlabeled_per_mix`, 1 or 2, of
    `num_unlabeled` rows beside it, but for those before the step `start_step`, which are supervised.
    """

    def __init__(
        self,
        labeled: LabeledSampler,
        num_unlabeled: int = 0,
        seed: int = 0,
        batch_size: int = 1,
        start_step: int = 0,
        unlabeled_per_mix: int = 2,
    ):
        self.labeled = replace(labeled, batch_size=batch_size)
        streams = (UNLABELED_A, UNLABELED_B)[:unlabeled_per_mix] if num_unlabeled else ()
        self.unlabeled = [UnlabeledSampler(num_unlabeled, len(self.labeled), seed, stream) for stream in streams]
        self.seed = seed
        self.batch_size = batch_size
        # Nobody would look at the unlabeled crops of earlier steps.
        self.unlabeled_from = self._place(start_step)
        self.begins_at = (0, 0)
        self.epoch = 0

    def _place(self, step: int) -> tuple[int, int]:
        """Epoch and position in it of the first draw of a step."""
        epoch, step = divmod(step, len(self.labeled) // self.batch_size)
        return epoch, step * self.batch_size

    def set_epoch(self, epoch: int, step: int | None = None) -> None:
        """
        Chooses the epoch, counted from 0, of the next iteration. Before `step`, at which a run goes on, it yields
        `None`, for what is skipped there: thousands of draws would take their time.
        """
        self.epoch = epoch
        if step is not None:
            self.begins_at = self._place(step)

    def __len__(self) -> int:
        return len(self.labeled)

    def of_step(self, step: int) -> list[PairSample]:
        """The draws of a step, counted from 0 over all epochs: those of all processes and accumulated batches."""
        return list(itertools.islice(self._of_epoch(*self._place(step)), self.batch_size))

    def __iter__(self) -> Iterator[PairSample | None]:
        epoch = self.epoch
        first = self.begins_at[1] if epoch == self.begins_at[0] else 0
        yield from itertools.repeat(None, first)
        yield from self._of_epoch(epoch, first)

    def _of_epoch(self, epoch: int, first: int) -> Iterator[PairSample]:
        unlabeled = [draws(epoch, first) for draws in self.unlabeled]
        for position, draw in enumerate(self.labeled(epoch, first), first):
            alone = not unlabeled or (epoch, position) < self.unlabeled_from
            beside = [] if alone else [draws[position - first] for draws in unlabeled]
            a, b = [*beside, None, None][:2]
            yield PairSample(draw, a, b, sample_seed(self.seed, CUTMIX, epoch, position))
