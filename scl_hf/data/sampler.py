"""Chooses the crops of an epoch: labeled ones, part of them centered on a class, and unlabeled ones beside them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from ..errors import InputError, check_field
from .class_index import ClassIndex

# Each stream of random numbers has its own number, so that no two streams coincide
LABELED, UNLABELED_A, UNLABELED_B, CUTMIX = range(4)


@dataclass
class SamplingArguments:
    """
    How the crops of an epoch are chosen: class-uniform sampling of Zhu et al. (2019).

    Args:
        class_uniform_share (`float`, *optional*, defaults to 0.5):
            Share of an epoch's labeled crops that are centered on a class, each class equally often.
        class_uniform_tile (`int`, *optional*, defaults to 512):
            Side in pixels of the tiles in which the centroids of the classes are taken.
        coarse_classes (`list[int]`, *optional*, defaults to `[]`): Class ids for which the coarse annotations join.
        coarse_until_epoch (`int`, *optional*):
            First epoch without the coarse annotations. By default they are used to the end.
        skip_corrupt (`bool`, *optional*, defaults to `False`):
            Whether training takes another image where one cannot be read, instead of stopping. Evaluation
            images are never skipped, nor are files that are empty or missing at the start.
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
        check_field(self, "coarse_until_epoch", (self.coarse_until_epoch or 0) >= 0, "0 or more")


class Sample(NamedTuple):
    """One crop to take, with everything random about it."""

    row: int  # of the labeled, the coarse (where `coarse`) or the unlabeled dataset
    seed: int = 0  # of the crop's augmentation, 63 bits
    center: tuple[float, float] | None = None  # (x, y) in pixels of the stored image to be shown; None: anywhere
    coarse: bool = False
    category: int | None = None  # the class at `center`


class PairSample(NamedTuple):
    """One position of an epoch: a labeled crop, the unlabeled u_a and u_b, or neither, and the seed of the mixing."""

    labeled: Sample
    unlabeled_a: Sample | None
    unlabeled_b: Sample | None
    cutmix_seed: int


def sample_seed(seed: int, stream: int, epoch: int, position: int) -> int:
    """Returns the 63-bit seed of one position of one epoch of a stream."""
    return int(np.random.SeedSequence([seed, stream, epoch, position]).generate_state(1, np.uint64)[0] >> 1)


def shuffled_indices(size: int, start: int, stop: int, seed: int, stream: int) -> np.ndarray:
    """Returns positions `start` to `stop` of an endless stream of 0 to size - 1, shuffled anew for each cycle."""
    first, last = start // size, -(-stop // size)
    cycles = [np.random.default_rng([seed, stream, cycle]).permutation(size) for cycle in range(first, last)]
    return np.concatenate([np.empty(0, np.int64), *cycles])[start - first * size : stop - first * size]


@dataclass
class LabeledSampler:
    """
    Samples the labeled crops of an epoch: as many as labeled images, rounded up to whole batches. With a class index,
    a share is centered on a centroid, each class equally often; the others lie anywhere in the shuffled images.
    """

    num_images: int
    seed: int
    class_index: ClassIndex | None = None
    class_uniform_share: float = 0.5
    coarse_until_epoch: int | None = None
    batch_size: int = 1  # of a step on all devices

    def __post_init__(self):
        if self.num_images < 1:
            raise InputError("there is no labeled image: give a dataset or a labeled share with at least one.")

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size) * self.batch_size

    def __call__(self, epoch: int) -> list[Sample]:
        """Returns the samples of an epoch, counted from 0."""
        samples = enumerate(self.without_seeds(epoch))
        return [sample._replace(seed=sample_seed(self.seed, LABELED, epoch, i)) for i, sample in samples]

    def without_seeds(self, epoch: int) -> list[Sample]:
        """Returns the samples of an epoch without their seeds, which take most of the time."""
        rng = np.random.default_rng([self.seed, LABELED, epoch])
        samples = self._centered(epoch, rng) if self.class_index is not None else []
        rest = len(self) - len(samples)
        rows = shuffled_indices(self.num_images, epoch * rest, (epoch + 1) * rest, self.seed, LABELED)
        samples += [Sample(row) for row in rows.tolist()]
        return [samples[i] for i in rng.permutation(len(samples))]

    def _centered(self, epoch: int, rng: np.random.Generator) -> list[Sample]:
        counts = self.class_index.counts(self.coarse_until_epoch is None or epoch < self.coarse_until_epoch)
        present = np.flatnonzero(counts)
        if not len(present):
            return []
        # The shuffle decides which classes get one crop more where the number does not divide evenly
        samples, categories = [], np.resize(rng.permutation(present), round(self.class_uniform_share * len(self)))
        for category in categories.tolist():
            row, center, coarse = self.class_index.centroid(category, int(rng.integers(counts[category])))
            samples.append(Sample(row, 0, center, coarse, category))
        return samples


def unlabeled_samples(num_images: int, length: int, seed: int, stream: int, epoch: int) -> list[Sample]:
    """Samples the unlabeled crops of an epoch; a stream shows each image once, over epochs, before any repeats."""
    rows = shuffled_indices(num_images, epoch * length, (epoch + 1) * length, seed, stream)
    return [Sample(row, sample_seed(seed, stream, epoch, position)) for position, row in enumerate(rows.tolist())]


class PairSampler(Sampler[PairSample]):
    """
    Yields the samples of an epoch, in whole batches of a step, with their seeds: any number of workers and processes,
    and a resumed run, take the same crops. From `start_step` on, each has two of `num_unlabeled` images beside it.
    """

    def __init__(self, labeled: LabeledSampler, num_unlabeled: int = 0, batch_size: int = 1, start_step: int = 0):
        self.labeled = replace(labeled, batch_size=batch_size)
        self.num_unlabeled = num_unlabeled
        self.unlabeled_from = self._position(start_step)  # no unlabeled crops before it
        self.epoch = 0

    def _position(self, step: int) -> tuple[int, int]:
        """Returns epoch, and position in it, of the first sample of a step."""
        epoch, step = divmod(step, len(self.labeled) // self.labeled.batch_size)
        return epoch, step * self.labeled.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labeled)

    def __iter__(self) -> Iterator[PairSample]:
        return self._of_epoch(self.epoch)

    def of_step(self, step: int) -> list[PairSample]:
        """Returns the samples of a step, counted from 0 over all epochs, of all processes and accumulated batches."""
        epoch, first = self._position(step)
        return list(itertools.islice(self._of_epoch(epoch), first, first + self.labeled.batch_size))

    def _of_epoch(self, epoch: int) -> Iterator[PairSample]:
        labeled = self.labeled(epoch)
        unlabeled = [(None, None)] * len(labeled)
        if self.num_unlabeled:
            options = self.num_unlabeled, len(labeled), self.labeled.seed
            unlabeled = zip(*(unlabeled_samples(*options, stream, epoch) for stream in (UNLABELED_A, UNLABELED_B)))
        for position, (sample, pair) in enumerate(zip(labeled, unlabeled)):
            pair = pair if (epoch, position) >= self.unlabeled_from else (None, None)
            yield PairSample(sample, *pair, sample_seed(self.labeled.seed, CUTMIX, epoch, position))
