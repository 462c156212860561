"""Means, deviations and paired intervals."""

import math

import pytest

from px_seg.report.statistics import paired_difference, summary


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    first, second = {0: 0.3, 1: 0.5, 2: 0.45, 7: 0.1}, {2: 0.4, 1: 0.42, 0: 0.29, 9: 0.2}
    found = paired_difference(first, second)
    # Differences 0.01, 0.08, 0.05 of the seeds 0, 1, 2: mean 0.14 / 3, and t(2) is 4.302653 at 97.5%.
    mean = 0.14 / 3
    deviation = math.sqrt(((0.01 - mean) ** 2 + (0.08 - mean) ** 2 + (0.05 - mean) ** 2) / 2)
    margin = 4.302652729911275 * deviation / math.sqrt(3)
    assert found.count == 3
    assert found.mean == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - margin, mean + margin))
    assert paired_difference({0: 0.3}, {0: 0.2}).interval is None
    assert paired_difference({0: 0.3}, {1: 0.2}) is None


@pytest.mark.filterwarnings("error")
def test_an_interval_without_any_variation_is_a_point() -> None:
    assert paired_difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}) == (0.25, (0.25, 0.25), 2)


def test_the_deviation_divides_by_one_seed_less() -> None:
    assert summary([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)), 3)
    assert summary([1.0]) == (1.0, None, 1)
