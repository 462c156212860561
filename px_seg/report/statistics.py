"""Means over seeds, and differences between runs of the same seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import spearmanr, ttest_rel

LEVEL = 0.95
"""Confidence of the intervals."""


class Summary(NamedTuple):
    """A score over several seeds."""

    mean: float
    deviation: float | None
    """Standard deviation with n - 1; None for one seed."""
    count: int  # type: ignore[assignment]  # in place of tuple's method of that name


class Difference(NamedTuple):
    """By how much one scores more than the other, over the seeds that both have."""

    mean: float
    interval: tuple[float, float] | None
    """Of confidence `LEVEL`; None for one seed."""
    count: int  # type: ignore[assignment]  # in place of tuple's method of that name


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of at least one value."""
    return Summary(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Mean of first - second by seed, with Student's interval of confidence `LEVEL` for it; None without common seeds.

    With n common seeds the interval is the mean +- t(n - 1) s / sqrt(n), s the standard deviation of the differences.
    It assumes normally distributed differences, which so few seeds cannot show.
    """
    common = [seed for seed in first if seed in second]
    if not common:
        return None
    pairs = [first[seed] for seed in common], [second[seed] for seed in common]
    mean, deviation, count = summary([a - b for a, b in zip(*pairs, strict=True)])
    if deviation is None:
        return Difference(mean, None, count)
    if deviation == 0:
        # The interval is a point, of which scipy warns that it lost precision.
        return Difference(mean, (mean, mean), count)
    low, high = ttest_rel(*pairs).confidence_interval(LEVEL)
    return Difference(mean, (float(low), float(high)), count)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, of values in pairs; None where one of the two is the same throughout."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)
