"""Rows of masked systems, against numpy's solver on each row's own equations."""

import itertools

import numpy as np
import pytest
import torch

from px_seg.repair import least_squares


@pytest.mark.parametrize("small", [0, 64])
@pytest.mark.parametrize("density", [0.2, 0.7, 0.95])
def test_every_row_solves_its_own_equations(density: float, small: int, generator, monkeypatch) -> None:
    monkeypatch.setattr(least_squares, "SMALL", small)
    monkeypatch.setattr(least_squares, "_AT_ONCE", 5 * 81)
    groups, rows, size = 2, 12, 9
    x = torch.randn(groups, 40, size, dtype=torch.float64, generator=generator)
    systems, right = x.mT @ x / 40, torch.randn(groups, rows, size, dtype=torch.float64, generator=generator)
    kept = torch.rand(groups, rows, size, generator=generator) < density
    kept[:, 0], kept[:, 1] = True, False
    assert least_squares._rows_by_pruned(kept[0]).any() == (density > 0.5)
    found = least_squares.solved(systems, right, kept)
    for group, row in itertools.product(range(groups), range(rows)):
        live, expected = kept[group, row], np.zeros(size)
        system = systems[group][live][:, live]
        expected[live.numpy()] = np.linalg.solve(system.numpy(), right[group, row, live].numpy())
        np.testing.assert_allclose(found[group, row].numpy(), expected, rtol=1e-9, atol=1e-12)
    assert not found[~kept].any()
