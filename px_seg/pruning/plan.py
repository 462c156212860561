"""What a pruning will do, decided and checked before anything is scored."""

import json
from numbers import Real
from typing import NamedTuple

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.criteria.base import Criterion
from px_seg.pruning.density_schedule import exponential
from px_seg.pruning.masks import Masks
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.provenance import Provenance
from px_seg.pruning.rankings import Ranking
from px_seg.pruning.rankings import ranking as ranking_named
from px_seg.pruning.scope import Scope, as_list


class Plan(NamedTuple):
    """What a pruning will do, before it has scored anything."""

    start: Masks
    """Everything lives; their provenance is that of the result."""

    densities: list[float]
    """After each round; none for a sparsity of 0."""

    keep: Ranking
    """What a round does with its scores."""

    scope: str | list[str] | None


def plan_pruning(
    model: nn.Module,
    sparsity: float,
    criterion: Criterion,
    scope: Scope = None,
    rounds: int | None = None,
    ranking: str | None = None,
    pattern: str | None = None,
) -> Plan:
    """What `prune` does with these arguments. Raises the InputErrors that `prune` raises before it scores.

    Settings of the criterion are numbers, text and lists of them, which a file can hold.
    """
    scope = as_list(scope)
    if not isinstance(criterion, Criterion):
        raise InputError(f"criterion must be an object such as PX(), got {criterion!r}")
    exponential(_density(sparsity), 1)
    check_ranking(sparsity, ranking, pattern)
    # Not as given: a count that is off by one would break the pattern.
    sparsity = sparsity if pattern is None else Pattern.parse(pattern).sparsity
    rounds = criterion.rounds_to(sparsity) if rounds is None else rounds
    densities = exponential(1 - sparsity, rounds)
    settings = criterion.settings()
    try:
        settings = json.loads(json.dumps(settings))
    except TypeError as error:
        raise InputError(
            f"a setting of {type(criterion).__name__} is not a number or text: {error}; declare what is not a "
            "setting with field(repr=False)"
        ) from None
    provenance = Provenance(
        criterion=type(criterion).__name__,
        settings=settings,
        sparsity=sparsity,
        rounds=rounds if sparsity else 0,
        scope=() if scope is None else (scope,) if isinstance(scope, str) else tuple(scope),
        ranking=None if pattern else ranking or criterion.ranking,
        pattern=pattern,
    )
    masks = Masks(Masks.ones(model, scope), provenance)
    if sparsity and round(densities[-1] * masks.total) == 0:
        raise InputError(f"a sparsity of {sparsity} keeps none of the {masks.total} weights in scope: ask for less")
    keep = _ranking(model, scope, ranking or criterion.ranking, pattern)
    return Plan(masks, densities if sparsity else [], keep, scope)


def _density(sparsity: float) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise InputError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    return 1 - sparsity


def check_ranking(sparsity: float, ranking: str | None, pattern: str | None) -> None:
    """Raise InputError for a ranking or a pattern that does not exist, and for one that contradicts the rest."""
    if ranking is not None:
        ranking_named(ranking)
    if pattern is None:
        return
    if ranking not in (None, "global"):
        raise InputError(f"the pattern {pattern} fixes the density of every layer: leave the ranking {ranking} out")
    own = Pattern.parse(pattern).sparsity
    if abs(sparsity - own) > 1e-6:
        raise InputError(
            f"the pattern {pattern} has a sparsity of {own:g}, not {sparsity:g}: give that sparsity, or no pattern"
        )


def _ranking(model: nn.Module, scope: Scope, ranking: str, pattern: str | None) -> Ranking:
    if pattern is None:
        return ranking_named(ranking)
    parsed = Pattern.parse(pattern)
    dims = list(parsed.input_dims(model, scope).values())
    return lambda scores, live, count: parsed.keep(scores, live, count, dims)
