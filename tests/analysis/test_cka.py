"""Linear CKA against its definition by Gram matrices, and what it must not change with."""

import pytest
import torch
from torch import Tensor

from px_seg import InputError
from px_seg.analysis.cka import LinearCKA


def by_gram_matrices(x: Tensor, y: Tensor) -> float:
    """Song et al. (2012), equation 5, with the kernels' matrices written out."""
    n = len(x)

    def hsic(one: Tensor, other: Tensor) -> Tensor:
        k, ell = (z @ z.T for z in (one, other))
        k.fill_diagonal_(0)
        ell.fill_diagonal_(0)
        product = k @ ell
        sums = k.sum() * ell.sum() / ((n - 1) * (n - 2))
        return (product.trace() + sums - 2 / (n - 2) * product.sum()) / (n * (n - 3))

    return float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())


def aligned(*batches: tuple[Tensor, Tensor]) -> float:
    cka = LinearCKA()
    for first, second in batches:
        cka.add(first, second)
    return cka.value()


def test_it_is_that_of_the_gram_matrices_however_cut(generator) -> None:
    x = torch.randn(40, 6, dtype=torch.float64, generator=generator) + 100
    y = x[:, :3] @ torch.randn(3, 9, dtype=torch.float64, generator=generator) - 7
    y += torch.randn(40, 9, dtype=torch.float64, generator=generator)
    expected = by_gram_matrices(x - x.mean(0), y - y.mean(0))
    assert by_gram_matrices(x, y) == pytest.approx(expected, rel=1e-5)  # which a shift does not change
    assert 0.05 < expected < 0.95
    assert aligned((x, y)) == pytest.approx(expected, rel=1e-10)
    assert aligned((x[:7], y[:7]), (x[7:], y[7:])) == pytest.approx(expected, rel=1e-10)
    # In float32, with means a hundred times the spread.
    assert aligned((x[:7].float(), y[:7].float()), (x[7:].float(), y[7:].float())) == pytest.approx(expected, rel=1e-4)


def test_every_pixel_is_a_sample(generator) -> None:
    x, y = (torch.randn(3, c, 4, 5, dtype=torch.float64, generator=generator) for c in (6, 2))
    y = y + x[:, :2]
    rows = [part.permute(0, 2, 3, 1).reshape(60, -1) for part in (x, y)]
    assert aligned((x, y)) == pytest.approx(by_gram_matrices(*rows), rel=1e-10)


def test_nothing_in_common_is_zero_in_the_mean_also_of_fewer_samples_than_channels(generator) -> None:
    """The estimate in common use has 0.89 here."""
    found = [aligned(tuple(torch.randn(64, 512, generator=generator) for _ in range(2))) for _ in range(20)]
    assert abs(sum(found) / 20) < 0.02
    assert min(found) < 0


def test_rotation_and_scale_do_not_count_and_constants_tell_nothing(generator) -> None:
    x = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    assert aligned((x, 3 * x @ rotation + 2)) == pytest.approx(1, rel=1e-10)
    assert aligned((x, torch.ones(30, 4, dtype=torch.float64))) == 0
    rounding = 0.3 + 1e-8 * torch.randn(30, 4, generator=generator)
    assert rounding.std(0).max() > 0
    assert aligned((x.float(), rounding)) == 0
    with pytest.raises(InputError, match="at least 4 samples, got 3: give more images"):
        aligned((x[:3], x[:3]))


def test_any_scale_of_float32_has_its_alignment(generator) -> None:
    x, y = torch.randn(2, 64, 6, generator=generator)
    y = x + y
    expected = aligned((x.double(), y.double()))
    for scale in (1e-12, 1e9, 1e16, 1e30):
        assert aligned((x, scale * y)) == pytest.approx(expected, rel=1e-5)
