"""Iterative pruning: rounds of scoring and keeping the top."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, several
from px_seg.pruning.criteria.base import Criterion
from px_seg.pruning.distribution import Ranking
from px_seg.pruning.distribution import ranking as ranking_named
from px_seg.pruning.masks import Masks
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.scope import Scope, listed
from px_seg.pruning.sharing import Group, agreed, first_ones

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
    *,
    on_round: Callable[[int, Masks], None] | None = None,
    group: Group = None,
    ranking: str | None = None,
    pattern: str | None = None,
    start: Masks | None = None,
) -> Masks:
    """Masks that keep round((1 - sparsity) * n) of the n weights in scope.

    The model is not changed: `masks.apply(model)` prunes it. `batches` are read once and
    walked in every round; `rounds` and `ranking` default to the criterion's own. `on_round` is
    called after each round with its number, from 1, and the masks so far. A sparsity of 0 keeps
    everything and scores nothing. The masks' metadata says how they came about.

    `ranking` is "global", "uniform" or "erk" (`px_seg.pruning.distribution`). `pattern`, "2:4" for one,
    keeps exactly 2 of every 4 input channels of each layer (`px_seg.pruning.pattern`); the sparsity is
    then the pattern's, here 0.5, and rounds before the last keep at least 2.

    `start` takes up a pruning that was broken off: the masks after one of its rounds, as `on_round` saw them, with
    everything else as it was.

    On several processes each calls this with its share of the batches and the torch.distributed
    `group` of all; they score over all batches and end with the same masks.

    Raises InputError for a sparsity outside [0, 1) or one that keeps no weight, fewer than one round, an
    empty scope, for a pattern that is no pattern, has another sparsity, comes with a ranking of
    layers, or does not divide a layer's input channels, and for a `start` that is of another pruning.
    """
    scope = listed(scope)
    plan = planned(model, sparsity, criterion, scope, rounds, ranking, pattern)
    masks = plan.start
    if not plan.densities:
        return masks
    batches = list(several(batches))
    done = 0
    if start is not None:
        done = _rounds_done(start, masks, plan.densities)
        masks = Masks({name: start[name].to(mask.device) for name, mask in masks.items()}, masks.metadata)

    def next_masks(density: float) -> Masks:
        # The scores are not kept: they would lie beside those of the next round.
        return masks.keep_top(scored(criterion, model, batches, masks, scope, group), density, plan.keep)

    for number, density in enumerate(plan.densities[done:], done + 1):
        masks = first_ones(group, agreed(group, partial(next_masks, density)))
        if on_round is not None:
            on_round(number, masks)
    return masks


class NothingToRank(InputError):
    """All scores are 0: ranking them would keep whatever comes first."""


class _Unread:
    """Stands for batches that a criterion has said it does not read."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion

    def __iter__(self) -> NoReturn:
        raise InputError(f"{type(self.criterion).__name__} reads the batches: say needs_data = True in its class")


def scored(
    criterion: Criterion,
    model: nn.Module,
    batches: Batches,
    masks: Masks | None = None,
    scope: Scope = None,
    group: Group = None,
) -> Mapping[str, Tensor]:
    """What the criterion scores, if it can be ranked by.

    Raises NothingToRank when all scores are 0, and InputError for a criterion that reads the
    batches without having said so.
    """
    scores = criterion.score(model, batches if criterion.needs_data else _Unread(criterion), masks, scope, group)
    if isinstance(scores, Mapping) and not any(bool(torch.as_tensor(score).any()) for score in scores.values()):
        raise NothingToRank(
            "all scores are 0, which ranks nothing: the batches have no labelled target, or the network is cut, "
            "and then a lower sparsity helps"
        )
    return scores


class Plan(NamedTuple):
    """What a pruning will do, before it has scored anything."""

    start: Masks
    """Everything lives; the metadata are those of the result."""

    densities: list[float]
    """After each round; none for a sparsity of 0."""

    keep: Ranking
    """What a round does with its scores."""


def planned(
    model: nn.Module,
    sparsity: float,
    criterion: Criterion,
    scope: Scope = None,
    rounds: int | None = None,
    ranking: str | None = None,
    pattern: str | None = None,
) -> Plan:
    """What `prune` does with these arguments. Raises the InputErrors that `prune` raises before it scores."""
    if not isinstance(criterion, Criterion):
        raise InputError(f"criterion must be an object such as PX(), got {criterion!r}")
    exponential(_density(sparsity), 1)
    check_distribution(sparsity, ranking, pattern)
    # Not as given: a count that is off by one would break the pattern.
    sparsity = sparsity if pattern is None else Pattern.parse(pattern).sparsity
    rounds = criterion.rounds_to(sparsity) if rounds is None else rounds
    densities = exponential(1 - sparsity, rounds)
    try:
        settings = json.dumps(criterion.settings())
    except TypeError as error:
        raise InputError(
            f"a setting of {type(criterion).__name__} is no number or text: {error}; declare what is no setting "
            "with field(repr=False)"
        ) from None
    masks = Masks.ones(model, scope).with_metadata(
        criterion=type(criterion).__name__,
        settings=settings,
        sparsity=str(sparsity),
        rounds=str(rounds if sparsity else 0),
        scope=json.dumps(scope),
        **({"pattern": pattern} if pattern else {"ranking": ranking or criterion.ranking}),
    )
    if sparsity and round(densities[-1] * masks.total) == 0:
        raise InputError(f"a sparsity of {sparsity} keeps none of the {masks.total} weights in scope: ask for less")
    keep = _ranking(model, scope, ranking or criterion.ranking, pattern)
    return Plan(masks, densities if sparsity else [], keep)


def _density(sparsity: float) -> float:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise InputError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    return 1 - sparsity


def _rounds_done(start: Masks, ones: Masks, densities: Sequence[float]) -> int:
    """After how many rounds a pruning of these densities has the masks `start`."""
    counts = [round(density * ones.total) for density in densities]
    if not isinstance(start, Masks):
        raise InputError(f"start must be Masks, as on_round sees them; got {type(start).__name__}")
    shapes = [{name: mask.shape for name, mask in masks.items()} for masks in (start, ones)]
    if shapes[0] != shapes[1] or start.kept not in counts:
        raise InputError("the masks to start from are of another pruning: no round of this one leaves as many weights")
    for key, asked in ones.metadata.items():
        if start.metadata.get(key, asked) != asked:
            raise InputError(
                f"the masks to start from are of another pruning: its {key} was {start.metadata[key]}, not {asked}"
            )
    return len(counts) - counts[::-1].index(start.kept)


def check_distribution(sparsity: float, ranking: str | None, pattern: str | None) -> None:
    """Raise InputError for a ranking or a pattern that does not exist, and for one that contradicts the rest."""
    if ranking is not None:
        ranking_named(ranking)
    if pattern is None:
        return
    if ranking not in (None, "global"):
        raise InputError(f"the pattern {pattern} fixes the density of every layer: leave the ranking {ranking} out")
    own = Pattern.parse(pattern).sparsity
    if abs(sparsity - own) > 1e-6:
        raise InputError(f"the pattern {pattern} has a sparsity of {own:g}, not {sparsity:g}: give that, or no pattern")


def _ranking(model: nn.Module, scope: Scope, ranking: str, pattern: str | None) -> Ranking:
    if pattern is None:
        return ranking_named(ranking)
    pattern = Pattern.parse(pattern)
    dims = list(pattern.input_dims(model, scope).values())
    return lambda scores, live, count: pattern.keep(scores, live, count, dims)
