"""Scores over the number of labels: which tables have such a curve, and how many labels alone a score is worth."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .summary import Summary, t_quantile


class Worth(NamedTuple):
    """A number of labels with the ends of its 95 % interval: 0 lies before the curve, infinity beyond its end."""

    number: float
    low: float  # NaN of a single seed
    high: float
    first: int  # labels at the ends of the curve
    last: int
    seeds: int
    outside: int  # seeds above or below all of their own curve


def label_counts(shares: Sequence[str]) -> dict[str, int]:
    """Returns share -> its number of labels, ascending, if three or more shares all begin with one of their own."""
    found = {share: re.match(r"(\d{1,3}(?:,\d{3})+|\d+) labels?\b", share) for share in shares}
    counts = {share: int(match[1].replace(",", "")) for share, match in found.items() if match}
    if len(shares) < 3 or len(set(counts.values()) - {0}) < len(shares):
        return {}
    return dict(sorted(counts.items(), key=lambda item: item[1]))


def worth_in_labels(summary: Summary, counts: Mapping[str, int], share: str, row: str) -> Worth | None:
    """
    Returns how many labels the baseline needs for the mean IoU of another row at a share, read off its curve over the
    number of labels (`counts`, of [`label_counts`]), or `None` where there is no score or no curve.

    A seed's curve runs straight between its scores, over the logarithm of the number. The seeds that the row has at
    the share count, and of the baseline the shares that have all of them, two or more. At each whole number of labels
    the row's difference to the curve is paired by seed, and has its interval (Student's t over seeds). The worth is
    the first number at which the mean difference is not above 0. Where a curve is not monotonic that is the inverse
    of its running maximum, and the answer that credits the unlabeled images least. The interval goes from there in
    both directions as far as the interval of the difference holds 0 (Fieller's), to beyond the curve where it does so
    at the curve's end.

    A number for each seed, with an interval over their logarithms, would need every seed to lie on its own curve. Few
    seeds often do not, and leaving them out is biased. Here such a seed widens the interval. It is counted, too.
    """
    scores = summary.values(share, row)
    baseline = {counts[name]: summary.values(name, best) for name in counts if (best := summary.baseline[name])}
    curve = {number: values for number, values in baseline.items() if scores.keys() <= values.keys()}
    if not scores or len(curve) < 2:
        return None
    labels = np.arange(min(curve), max(curve) + 1)
    curves = [
        np.interp(np.log(labels), np.log([*curve]), [values[seed] for values in curve.values()]) for seed in scores
    ]
    # (seeds, labels); rounded, so that a score on the curve is neither above nor below it
    gains = np.round(np.array([*scores.values()])[:, None] - curves, 9)
    mean, seeds = gains.mean(axis=0), len(scores)
    at = int(np.argmax(mean <= 0)) if min(mean) <= 0 else len(labels)
    number = int(labels[at]) if at < len(labels) else math.inf
    if mean[0] < 0:
        number = 0
    low = high = math.nan
    if seeds > 1:
        half = t_quantile(seeds) * gains.std(axis=0, ddof=1) / math.sqrt(seeds)
        better, worse = labels[:at][(mean > half)[:at]], labels[at:][(mean < -half)[at:]]
        low = int(better[-1]) + 1 if len(better) else 0
        high = max(number, int(worse[0]) - 1) if len(worse) else math.inf
    outside = int(((gains > 0).all(axis=1) | (gains < 0).all(axis=1)).sum())
    return Worth(number, low, high, int(labels[0]), int(labels[-1]), seeds, outside)
