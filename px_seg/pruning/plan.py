"""What a pruning will do, decided and checked before anything is scored."""

import hashlib
import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple

from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.criteria.base import Criterion
from px_seg.pruning.density_schedule import exponential
from px_seg.pruning.granularity import by_units, check_granularity
from px_seg.pruning.masks import Masks
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.provenance import Provenance
from px_seg.pruning.rankings import Ranking, check_ranking_name, with_counts
from px_seg.pruning.rankings import ranking as ranking_named
from px_seg.pruning.scope import Scope, as_list, prunable


class Plan(NamedTuple):
    """What a pruning will do, before it has scored anything."""

    start: Masks
    """Everything lives; their provenance is that of the result."""

    densities: list[float]
    """After each round; none for a sparsity of 0."""

    keep: Ranking
    """What a round does with its scores."""

    scope: str | list[str] | None

    unit: int = 1
    """The most weights that are kept or pruned together: a round may keep fewer than asked for by less than that."""


def plan_pruning(
    model: nn.Module,
    sparsity: float,
    criterion: Criterion,
    scope: Scope = None,
    rounds: int | None = None,
    ranking: str | None = None,
    pattern: str | None = None,
    granularity: str = "weight",
    density_from: Mapping[str, Tensor] | None = None,
) -> Plan:
    """What `prune` does with these arguments. Raises the InputErrors that `prune` raises before it scores.

    Settings of the criterion are numbers, text and lists of them, which a file can hold.
    """
    scope = as_list(scope)
    if not isinstance(criterion, Criterion):
        raise InputError(f"criterion must be an object such as PX(), got {criterion!r}")
    exponential(_density(sparsity), 1)
    check_ranking(sparsity, ranking, pattern, granularity, density_from is not None)
    # Not as given: a count that is off by one would break the pattern.
    sparsity = (Pattern.parse(pattern).sparsity if pattern else None) or sparsity
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
        granularity=granularity,
    )
    masks = Masks(Masks.ones(model, scope), provenance)
    if sparsity and round(densities[-1] * masks.total) == 0:
        raise InputError(f"a sparsity of {sparsity} keeps none of the {masks.total} weights in scope: ask for less")
    own, kept, unit = ranking or criterion.ranking, round(densities[-1] * masks.total), 1
    if pattern:
        _check_pattern(Pattern.parse(pattern), model, scope, criterion, own)
        _check_room(Pattern.parse(pattern), model, scope, masks.total, kept)
    if density_from is not None:
        if own != "global":
            raise InputError(
                f"{type(criterion).__name__} fixes the densities of layers itself ({own}), and here they are those of "
                "other masks: choose another method"
            )
        counts = _counts_of(density_from, masks, kept)
        masks = masks.with_provenance(
            ranking=f"{GIVEN}:{hashlib.blake2b(repr(counts).encode(), digest_size=8).hexdigest()}"
        )
        keep = with_counts(counts)
    elif granularity == "weight":
        keep = _ranking(model, scope, own, pattern)
    else:
        keep, unit = by_units(granularity, own, model, scope)
        if kept < unit:
            raise InputError(
                f"a sparsity of {sparsity} keeps {kept} weights, fewer than the {unit} of one {granularity}: ask for "
                "less, or for a finer granularity"
            )
    return Plan(masks, densities if sparsity else [], keep, scope, unit)


GIVEN = "given"
"""How the name begins of a ranking inside layers whose numbers of weights other masks decide."""


def _counts_of(given: Mapping[str, Tensor], masks: Masks, kept: int) -> list[int]:
    """How many weights the given masks keep of each tensor. InputError where they are not of these, or of `kept`."""
    for name, mask in masks.items():
        if name not in given or given[name].shape != mask.shape:
            raise InputError(
                f"the masks whose layer densities are to be kept have none for {name} of shape {tuple(mask.shape)}: "
                "give those of the same network, pruned in the same parts"
            )
    if left := [name for name in given if name not in masks]:
        raise InputError(f"the masks whose layer densities are to be kept are also of {left[0]}, which is not in scope")
    counts = [int(given[name].count_nonzero()) for name in masks]
    if sum(counts) != kept:
        own = given.provenance.sparsity if isinstance(given, Masks) else None
        if own is None or round((1 - own) * masks.total) != sum(counts):
            own = 1 - sum(counts) / masks.total
        raise InputError(
            f"the masks whose layer densities are to be kept prune {1 - sum(counts) / masks.total:.4%} of the weights: "
            f"ask for a sparsity of {own:.10g}"
        )
    return counts


def _check_pattern(pattern: Pattern, model: nn.Module, scope: Scope, criterion: Criterion, ranking: str) -> None:
    if not pattern.at_most:
        return
    if ranking != "global":
        raise InputError(
            f"the pattern {pattern} ranks all layers together, and {type(criterion).__name__} fixes their densities "
            f"({ranking}): choose another method"
        )
    if len(pattern.exempt(model, scope)) == len(prunable(model, scope)):
        raise InputError(
            f"no layer in scope has {pattern.channels} input and output channels, so that the pattern {pattern} would "
            f"change nothing: give a smaller number, as in 'at-most {pattern.n}:{pattern.m} from 64'"
        )


def _check_room(pattern: Pattern, model: nn.Module, scope: Scope, total: int, kept: int) -> None:
    if kept > (most := pattern.most(model, scope)):
        raise InputError(
            f"the pattern {pattern} leaves at most {most} of the {total} weights in scope: ask for a sparsity of "
            f"{math.ceil((1 - most / total) * 1e4) / 1e4} or more"
        )


def _density(sparsity: float) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise InputError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    return 1 - sparsity


def check_ranking(
    sparsity: float,
    ranking: str | None,
    pattern: str | None,
    granularity: str = "weight",
    given_densities: bool = False,
) -> None:
    """Raise InputError for a ranking, pattern or granularity that does not exist or contradicts the rest.

    `given_densities` says that other masks decide how many weights each layer keeps.
    """
    if given_densities:
        for what, value in (("ranking", ranking), ("pattern", pattern)):
            if value is not None:
                raise InputError(f"layers keep as many weights as other masks have: leave the {what} {value} out")
        if granularity != "weight":
            raise InputError(f"layers keep as many weights as other masks have: leave {granularity}s out")
    if ranking is not None:
        check_ranking_name(ranking)
    check_granularity(granularity)
    if pattern is None:
        return
    own = Pattern.parse(pattern).sparsity
    if own is None and not sparsity:
        raise InputError(f"a sparsity of 0 prunes nothing: leave the pattern {pattern} out")
    if granularity != "weight":
        raise InputError(f"the pattern {pattern} is one of single weights: leave the granularity {granularity} out")
    if ranking not in (None, "global"):
        raise InputError(f"the pattern {pattern} ranks all layers together: leave the ranking {ranking} out")
    if own is not None and abs(sparsity - own) > 1e-6:
        raise InputError(
            f"the pattern {pattern} has a sparsity of {own:g}, not {sparsity:g}: give that sparsity, or no pattern"
        )


def _ranking(model: nn.Module, scope: Scope, ranking: str, pattern: str | None) -> Ranking:
    if pattern is None:
        return ranking_named(ranking)
    parsed = Pattern.parse(pattern)
    dims = list(parsed.input_dims(model, scope).values())
    return lambda scores, live, count: parsed.keep(scores, live, count, dims)
