"""Means over seeds, and differences between runs of the same seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t

LEVEL = 0.95
"""Confidence of the intervals."""


class Summary(NamedTuple):
    """What several seeds came to."""

    mean: float
    deviation: float | None
    """Standard deviation with n - 1; None for one seed."""
    count: int


class Difference(NamedTuple):
    """How much more one comes to than the other, over the seeds that both have."""

    mean: float
    margin: float | None
    """Half the width of the interval; None for one seed."""
    count: int


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of at least one value."""
    return Summary(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Mean of first - second by seed, with Student's interval of confidence `LEVEL` for it; None without common seeds.

    With n common seeds the margin is t(n - 1) s / sqrt(n), s the standard deviation of the differences. It takes the
    differences for normally distributed, which so few seeds cannot show.
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    mean, deviation, count = summary(differences)
    if deviation is None:
        return Difference(mean, None, count)
    return Difference(mean, float(t.ppf((1 + LEVEL) / 2, count - 1)) * deviation / math.sqrt(count), count)
