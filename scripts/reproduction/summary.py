"""Summarizes results over seeds: means with 95 % intervals, and paired differences to the baseline of a share."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# 97.5 % quantiles of Student's t, for 1 to 30 degrees of freedom; beyond, the last one is a little too large.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
MEAN = "mean IoU"


class Estimate(NamedTuple):
    """A mean over seeds, and half of its 95 % interval: NaN of a single seed."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """True where the interval lies on one side of 0."""
        return abs(self.mean) > self.half


def t_quantile(number: int) -> float:
    """Returns the factor of the standard error of a mean of two or more values."""
    return T_QUANTILES[min(number - 1, len(T_QUANTILES)) - 1]


def estimate(values: Sequence[float]) -> Estimate | None:
    """Returns the mean of one or more values with its interval."""
    if not values:
        return None
    half = math.nan
    if len(values) > 1:
        half = t_quantile(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half)


class Summary:
    """
    The `results` of a table's finished runs, (share, row, seed) -> `scores` of its result.json, in percent. Of several
    rows in `baseline`, a share's baseline is the one with the highest mean IoU over the seeds that all have.
    """

    def __init__(
        self,
        rows: Sequence[str],
        shares: Sequence[str],
        baseline: Sequence[str],
        results: Mapping[tuple[str, str, int], Mapping[str, Any]],
    ):
        self.rows, self.shares = rows, shares
        self._values: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        self.classes: dict[str, list[str]] = {share: [] for share in shares}
        for (share, row, seed), scores in results.items():
            ious = {name: 100 * iou for name, iou in scores["iou"].items() if iou is not None}
            self._values.setdefault((share, row), {})[seed] = {MEAN: 100 * scores["mean_iou"]} | ious
            self.classes[share] = self.classes[share] or [*scores["iou"]]
        self.baseline = {share: self._better(share, baseline) for share in shares}

    def _better(self, share: str, rows: Sequence[str]) -> str | None:
        """Returns the row with the highest mean over the seeds that all rows with results share, if there are any."""
        values = {row: found for row in rows if (found := self.values(share, row))}
        shared = set.intersection(*map(set, values.values())) if values else set()
        means = {
            row: statistics.fmean(value for seed, value in found.items() if seed in shared or not shared)
            for row, found in values.items()
        }
        return max(means, key=means.get, default=None)

    def values(self, share: str, row: str, name: str = MEAN) -> dict[int, float]:
        """Returns seed -> the mean IoU, or the IoU of a class."""
        seeds = self._values.get((share, row), {})
        return {seed: values[name] for seed, values in seeds.items() if name in values}

    def mean(self, share: str, row: str, name: str = MEAN) -> Estimate | None:
        """Returns the mean over the seeds of a row."""
        return estimate([*self.values(share, row, name).values()])

    def difference(self, share: str, row: str, other: str, name: str = MEAN) -> Estimate | None:
        """Returns the difference of two rows, paired by seed: the same seed has the same labeled images."""
        ours, theirs = self.values(share, row, name), self.values(share, other, name)
        return estimate([ours[seed] - theirs[seed] for seed in ours if seed in theirs])

    def gain(self, share: str, row: str, name: str = MEAN) -> Estimate | None:
        """Returns the difference to the baseline of the share, if there is one."""
        baseline = self.baseline[share]
        return self.difference(share, row, baseline, name) if baseline else None
