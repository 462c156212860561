"""Iterative pruning: rounds of scoring and keeping the top."""

import json
from collections.abc import Callable
from dataclasses import asdict

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.bound import Batches, several
from px_seg.pruning.criteria import Criterion
from px_seg.pruning.masks import Masks
from px_seg.pruning.scope import Scope
from px_seg.pruning.sharing import Group, first_ones

MOST_ROUNDS = 10_000


def exponential(density: float, rounds: int) -> list[float]:
    """d_r = density**(r/rounds) for r = 1..rounds: the same share pruned in every round.

    Raises InputError unless 0 < density <= 1 and 1 <= rounds <= 10,000.
    """
    if not 0 < density <= 1:
        raise InputError(f"sparsity must be in [0, 1), got {1 - density:g}")
    if not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"rounds must be a whole number from 1 to {MOST_ROUNDS}, got {rounds}")
    return [density ** (r / rounds) for r in range(1, rounds + 1)]


def prune(
    model: nn.Module,
    batches: Batches,
    sparsity: float,
    criterion: Criterion,
    scope: Scope = None,
    rounds: int | None = None,
    on_round: Callable[[int, Masks], None] | None = None,
    group: Group = None,
) -> Masks:
    """Masks that keep round((1 - sparsity) * n) of the n weights in scope, ranked globally.

    The model is not changed: `masks.apply(model)` prunes it. `batches` are read once and
    walked in every round; `rounds` defaults to the criterion's own number. `on_round` is
    called after each round with its number, from 1, and the masks so far. A sparsity of 0 keeps
    everything and scores nothing. The masks' metadata says how they came about.

    On several processes each calls this with its share of the batches and the torch.distributed
    `group` of all; they score over all batches and end with the same masks.

    Raises InputError for a sparsity outside [0, 1) or one that keeps no weight, fewer than one round or an
    empty scope.
    """
    if not isinstance(criterion, Criterion):
        raise InputError(f"criterion must be an object such as PX(), got {criterion!r}")
    scope = scope if scope is None or isinstance(scope, str) else list(scope)
    rounds = criterion.rounds if rounds is None else rounds
    densities = exponential(1 - sparsity, rounds)
    masks = Masks.ones(model, scope).with_metadata(
        criterion=type(criterion).__name__,
        settings=json.dumps(asdict(criterion)),
        sparsity=str(sparsity),
        rounds=str(rounds if sparsity else 0),
        scope=json.dumps(scope),
    )
    if sparsity == 0:
        return masks
    if round(densities[-1] * masks.total) == 0:
        raise InputError(f"a sparsity of {sparsity} keeps none of the {masks.total} weights in scope: ask for less")
    batches = list(several(batches))
    for number, density in enumerate(densities, 1):
        # The scores are not kept: they would lie beside those of the next round.
        masks = first_ones(group, masks.keep_top(criterion.score(model, batches, masks, scope, group), density))
        if on_round is not None:
            on_round(number, masks)
    return masks
