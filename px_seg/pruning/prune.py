"""Iterative pruning: rounds of scoring and keeping the top."""

from collections.abc import Callable

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.criteria import Batches, Criterion
from px_seg.pruning.masks import Masks
from px_seg.pruning.scope import Scope

MOST_ROUNDS = 10_000


def exponential(density: float, rounds: int) -> list[float]:
    """d_r = density**(r/rounds) for r = 1..rounds: the same share pruned in every round.

    Raises InputError unless 0 < density <= 1 and 1 <= rounds <= 10,000.
    """
    if not 0 < density <= 1:
        raise InputError(f"sparsity must be in [0, 1), got {1 - density:g}")
    if not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"rounds must be at least 1 and at most {MOST_ROUNDS}, got {rounds}")
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def prune(
    model: nn.Module,
    batches: Batches,
    sparsity: float,
    criterion: Criterion,
    scope: Scope = None,
    rounds: int | None = None,
    on_round: Callable[[int, Masks], None] | None = None,
) -> Masks:
    """Masks that keep round((1 - sparsity) * n) of the n weights in scope, ranked globally.

    The model is not changed: `masks.apply(model)` prunes it. `batches` are read once and
    walked in every round; `rounds` defaults to the criterion's own number. `on_round` is
    called after each round with its number, from 1, and the masks so far. A sparsity of 0 keeps
    everything and scores nothing.

    Raises InputError for a sparsity outside [0, 1), fewer than one round or an empty scope.
    """
    densities = exponential(1 - sparsity, criterion.rounds if rounds is None else rounds)
    masks = Masks.ones(model, scope)
    if sparsity == 0:
        return masks
    batches = list(batches)
    for number, density in enumerate(densities, 1):
        masks = masks.keep_top(criterion.score(model, batches, masks, scope), density)
        if on_round is not None:
            on_round(number, masks)
    return masks
