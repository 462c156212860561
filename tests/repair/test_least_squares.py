"""Rows of masked systems, against numpy's solver on each row's own equations."""

import numpy as np
import pytest
import torch

from px_seg.repair import least_squares


@pytest.mark.parametrize("density", [0.2, 0.7, 0.95])
def test_every_row_solves_its_own_equations(density: float, generator) -> None:
    rows, size = 12, 9
    x = torch.randn(40, size, dtype=torch.float64, generator=generator)
    system, right = x.T @ x / 40, torch.randn(rows, size, dtype=torch.float64, generator=generator)
    kept = torch.rand(rows, size, generator=generator) < density
    kept[0], kept[1] = True, False
    assert least_squares._rows_by_pruned(kept).any() == (density > 0.5)
    found = least_squares.solved(system, right, kept)
    for row, live in enumerate(kept):
        expected = np.zeros(size)
        expected[live.numpy()] = np.linalg.solve(system[live][:, live].numpy(), right[row, live].numpy())
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-9, atol=1e-12)
    assert not found[~kept].any()
