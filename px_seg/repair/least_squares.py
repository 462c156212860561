"""Many systems of equations that are parts of a few symmetric matrices, solved exactly."""

import torch
from torch import Tensor

SMALL = 64
"""Equations up to which rows are solved all at once, those that were pruned as well: w = 0."""

_AT_ONCE = 2**24
"""Numbers that systems solved at once have together."""


def solved(systems: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """w (G, C, K) with systems[g][kept, kept] w[kept] = right[g, c, kept] for every row, kept[g, c], and 0 elsewhere.

    `systems` (G, K, K) are symmetric and positive definite, `right` (G, C, K), `kept` (G, C, K) boolean. A large row
    costs min(kept, pruned)^3 / 3 multiplications: where more is kept than pruned, the solution of all K equations,
    whose factors all rows of a system share, is corrected by what makes the pruned weights 0. With P the pruned ones,
    B the inverse of the system and f = B right, w = f - B[:, P] B[P, P]^-1 f[P]: the step of the optimal brain surgeon
    (Hassibi and Stork, NeurIPS 1992) for all weights that a row loses at once.
    """
    if right.shape[-1] <= SMALL:
        return _all_at_once(systems, right, kept)
    return torch.stack([_one_by_one(*own) for own in zip(systems, right, kept, strict=True)])


def _all_at_once(systems: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """Rows of every system; a pruned weight's equation is w = 0."""
    groups, rows, size = right.shape
    number = torch.arange(groups, device=right.device).repeat_interleave(rows)
    right, live = (right * kept).flatten(0, 1), kept.flatten(0, 1).to(right)
    found = torch.empty_like(right)
    for part in torch.arange(len(right), device=right.device).split(max(1, _AT_ONCE // size**2)):
        own = live[part]
        system = systems[number[part]] * own[:, :, None] * own[:, None]
        system.diagonal(dim1=1, dim2=2).add_(1 - own)
        found[part] = torch.cholesky_solve(right[part, :, None], torch.linalg.cholesky(system)).squeeze(2)
    return found.view(groups, rows, size)


def _one_by_one(system: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """The rows of one system, (C, K)."""
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
    alive = kept.sum(1)
    fewer = size - alive < alive
    saved = (alive**3 - (size - alive) ** 3)[fewer].sum() / 3
    return fewer & (saved > size**3)


def _solution(system: Tensor, chosen: Tensor, right: Tensor) -> Tensor:
    """Of the chosen equations in the chosen unknowns."""
    factor = torch.linalg.cholesky(system[chosen[:, None], chosen])
    return torch.cholesky_solve(right[chosen, None], factor).squeeze(1)
