"""The schedule of densities."""

from px_seg.pruning import exponential


def test_the_schedule_ends_at_the_density_asked_for() -> None:
    densities = exponential(0.2, 100)
    assert len(densities) == 100
    assert densities[-1] == 0.2
    shares = [b / a for a, b in zip([1.0, *densities], densities, strict=False)]
    assert max(shares) - min(shares) < 1e-12
