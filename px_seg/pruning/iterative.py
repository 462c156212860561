"""Iterative pruning: rounds of scoring and keeping the top."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, checked_batches, sample_shape
from px_seg.pruning.compaction.rounds import Shrinking
from px_seg.pruning.criteria.base import Criterion
from px_seg.pruning.distributed import Group, broadcast_masks, run_on_all_ranks
from px_seg.pruning.masks import Masks
from px_seg.pruning.plan import Plan, plan_pruning
from px_seg.pruning.scope import Scope

Repair: TypeAlias = Callable[[nn.Module, Masks], object]
"""Changes a network in place so that its kept weights make up for the pruned ones."""


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
    granularity: str = "weight",
    density_from: Mapping[str, Tensor] | None = None,
    start: Masks | None = None,
    repair: Repair | None = None,
) -> Masks:
    """Masks that keep round((1 - sparsity) * n) of the n weights in scope, or with a granularity as many whole units.

    The model is not changed: `masks.apply(model)` prunes it. `batches` are read once and
    walked in every round; `rounds` and `ranking` default to the criterion's own. `on_round` is
    called after each round with its number, from 1, and the masks so far. A sparsity of 0 keeps
    everything and scores nothing. The masks' `provenance` says how they came about.

    `ranking` is "global", "uniform" or "erk" (`px_seg.pruning.rankings`). `pattern`, such as "2:4",
    keeps exactly 2 of every 4 input channels of each layer (`px_seg.pruning.pattern`); the sparsity is
    then the pattern's, here 0.5, and rounds before the last keep at least 2. "at-most 2:4" keeps no more than 2, at
    any sparsity that allows it, in layers of 256 input and output channels or more.

    `granularity` is "weight", "kernel" or "filter" (`px_seg.pruning.granularity`): kernels and filters are kept or
    pruned whole, as many as have no more weights than asked for.

    `density_from` are masks of the same weights and sparsity: each layer ends with as many weights as there, and the
    scores choose among those of one layer alone, as in sanity checks of pruning (Frankle et al., ICLR 2021; Su et al.,
    NeurIPS 2020). Ranking, pattern and granularity are then left out.

    `repair` is called before every round but the first with a copy of the model and the masks so far, and changes the
    copy in place: the round scores what it leaves. `lambda network, masks: px_seg.recalibrate(network, batches,
    masks, "reconstruct")` lets the weights kept make up for those pruned before the next are chosen. On several
    processes it must leave the same on all.

    `start` resumes a pruning that was interrupted: the masks after one of its rounds, as `on_round` saw them, with
    everything else as it was.

    On several processes each calls this with its share of the batches and the torch.distributed
    `group` of all; they score over all batches and end with the same masks.

    Raises InputError for a sparsity outside [0, 1) or one that keeps no weight, fewer than one round, an
    empty scope, for a pattern that is malformed, has another sparsity, comes with a ranking of
    layers or units, or does not divide a layer's input channels, for weights that fill no unit, and for a `start` that
    belongs to another pruning.
    """
    plan = plan_pruning(model, sparsity, criterion, scope, rounds, ranking, pattern, granularity, density_from)
    return carry_out(plan, model, batches, criterion, on_round=on_round, group=group, start=start, repair=repair)


def carry_out(
    plan: Plan,
    model: nn.Module,
    batches: Batches,
    criterion: Criterion,
    *,
    on_round: Callable[[int, Masks], None] | None = None,
    group: Group = None,
    start: Masks | None = None,
    repair: Repair | None = None,
) -> Masks:
    """What `prune` returns, of a plan that `plan_pruning` made for this model and criterion."""
    masks, scope = plan.start.beside(model), plan.scope
    if not plan.densities:
        return masks
    batches = list(checked_batches(batches))
    # A repair changes the network in every round.
    shrinking = Shrinking(model, partial(sample_shape, batches, group)) if criterion.by_paths and not repair else None
    done = 0
    if start is not None:
        done = _rounds_done(start, masks, plan)
        masks = Masks({name: start[name] for name in masks}, masks.provenance).beside(model)

    def next_masks(density: float) -> Masks:
        if plan.unit > 1 and masks.kept <= round(density * masks.total):
            # The last unit that did not fit brought it this far already.
            return masks
        network = model
        if repair is not None and masks.density < 1:
            repair(network := copy.deepcopy(model), masks)

        def score(network: nn.Module, masks: Masks) -> Mapping[str, Tensor]:
            return scored(criterion, network, batches, masks, scope, group)

        # The scores are not kept: they would lie beside those of the next round.
        scores = score(network, masks) if shrinking is None else shrinking.scores(masks, score)
        return masks.keep_top(scores, density, plan.keep)

    for number, density in enumerate(plan.densities[done:], done + 1):
        masks = broadcast_masks(group, run_on_all_ranks(group, partial(next_masks, density)))
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
        raise InputError(f"{type(self.criterion).__name__} reads the batches: set needs_data = True in its class")


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
            "all scores are 0, so nothing can be ranked: the batches have no labelled target, or the network is cut "
            "off, where a lower sparsity helps"
        )
    return scores


def _rounds_done(start: Masks, ones: Masks, plan: Plan) -> int:
    """After how many rounds a pruning has the masks `start`."""
    counts = [round(density * ones.total) for density in plan.densities]
    if not isinstance(start, Masks):
        raise InputError(f"start must be Masks, as on_round sees them; got {type(start).__name__}")
    shapes = [{name: mask.shape for name, mask in masks.items()} for masks in (start, ones)]
    # A round changes nothing where no more live than it keeps.
    done = sum(count >= start.kept for count in counts)
    if shapes[0] != shapes[1] or not done or counts[done - 1] - start.kept >= plan.unit:
        raise InputError(
            "the masks to start from belong to another pruning: no round of this one keeps as many weights"
        )
    if key := start.provenance.differs(ones.provenance):
        was, asked = getattr(start.provenance, key), getattr(ones.provenance, key)
        raise InputError(f"the masks to start from belong to another pruning: its {key} was {was}, not {asked}")
    return done
