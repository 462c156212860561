"""Many systems of equations that are parts of one symmetric matrix, solved exactly."""

import torch
from torch import Tensor


def solved(system: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """w (C, K) with system[kept[c], kept[c]] w[c, kept[c]] = right[c, kept[c]] for every row c, and 0 elsewhere.

    `system` (K, K) is symmetric and positive definite, `right` (C, K), `kept` (C, K) boolean. A row costs
    min(kept, pruned)^3 / 3 multiplications: where more is kept than pruned, the solution of all K equations, whose
    factors all rows share, is corrected by what makes the pruned weights 0. With P the pruned ones, B the inverse of
    the system and f = B right, w = f - B[:, P] B[P, P]^-1 f[P]: the step of the optimal brain surgeon (Hassibi and
    Stork, NeurIPS 1992) for all weights that a row loses at once.
    """
    found = torch.zeros_like(right)
    by_pruned = _rows_by_pruned(kept)
    if by_pruned.any():
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        free = right @ inverse
    for row, live in enumerate(kept):
        if by_pruned[row]:
            gone = (~live).nonzero().squeeze(1)
            found[row] = free[row]
            if len(gone):
                found[row] -= inverse[gone].T @ _solution(inverse, gone, free[row])
                found[row, gone] = 0
        elif live.any():
            chosen = live.nonzero().squeeze(1)
            found[row, chosen] = _solution(system, chosen, right[row])
    return found


def _rows_by_pruned(kept: Tensor) -> Tensor:
    """Which rows to solve by what they have lost: (C,), none where they are too few to be worth the inverse."""
    size = kept.shape[1]
    alive = kept.sum(1).double()
    fewer = size - alive < alive
    saved = (alive**3 - (size - alive) ** 3)[fewer].sum() / 3
    return fewer & (saved > size**3)


def _solution(system: Tensor, chosen: Tensor, right: Tensor) -> Tensor:
    """Of the chosen equations in the chosen unknowns."""
    factor = torch.linalg.cholesky(system[chosen[:, None], chosen])
    return torch.cholesky_solve(right[chosen, None], factor).squeeze(1)
