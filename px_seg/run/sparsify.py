"""From the dense network at its start to the sparse one that is fine-tuned."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from px_seg.config import RunConfig
from px_seg.data.loaders import Key
from px_seg.devices import Agreement
from px_seg.errors import InputError
from px_seg.progress import bar
from px_seg.pruning import (
    Criterion,
    LossCriterion,
    Masks,
    NothingToRank,
    Pattern,
    Plan,
    Repair,
    TrainingCriterion,
    carry_out,
    check_granularity,
    check_ranking,
    exponential,
    plan_pruning,
    prunable,
    scored,
)
from px_seg.pruning import criterion as criterion_named
from px_seg.pruning.randomness import derived_seed
from px_seg.run.checkpoints import stop_together
from px_seg.run.folder import RunFolder
from px_seg.run.given_masks import mask_file
from px_seg.run.repairing import check_named
from px_seg.run.user_criteria import naming_file, unchanged
from px_seg.tasks import Task
from px_seg.termination import Termination

C = TypeVar("C", bound=RunConfig)

Batches = list[tuple[Tensor, Tensor]]

SAVE_EVERY = 60.0
"""Seconds of pruning that an interruption may cost, and the round that it falls into."""


IDLE_WHEN_DENSE = (
    *("rounds", "ranking", "pattern", "granularity", "density_from", "keep_dense", "shuffle_masks", "pruning"),
    *("recalibrate", "recalibrate_rounds", "compact"),
)
"""Settings that make no difference to a network that is not pruned."""


def idle_when_dense(key: str) -> bool:
    """Whether a setting, by its dotted name, makes no difference to a network that is not pruned."""
    return key.partition(".")[0] in IDLE_WHEN_DENSE


def as_dense(config: C) -> C:
    """The same run with nothing pruned."""
    dense = replace(config, method="dense", sparsity=0.0, rounds=None, ranking=None)
    dense = replace(dense, pattern=None, granularity="weight", density_from=None, keep_dense=[], shuffle_masks=False)
    return without_idle_settings(dense)


def without_idle_settings(config: C) -> C:
    """The configuration without what would decide between weights, where nothing is left to decide.

    At sparsity 0 the method is `dense`. Raises InputError for a method or a repair that does not exist, and for a
    pattern or dense layers beside given masks.
    """
    check_granularity(config.granularity)
    if config.masks is not None:
        if config.pattern or config.keep_dense or config.density_from:
            raise InputError(f"the masks come from {config.masks}: leave pattern, keep_dense and density_from out")
    elif config.sparsity == 0:
        criterion_named(config.method)
        config = replace(config, method="dense")
    else:
        return config
    if config.sparsity == 0 and config.masks is None:
        check_named(config.recalibrate)
        config = replace(config, recalibrate="none", recalibrate_rounds=False, compact=False)
    return replace(
        config,
        rounds=None,
        ranking=None,
        granularity="weight",
        density_from=None,
        pruning=replace(config.pruning, settings={}),
    )


def check_pruning(config: RunConfig) -> Criterion | None:
    """The criterion that the configuration names, before it knows of any task; None where masks are given.

    Raises InputError for what can be refused without task, data or network.
    """
    if config.shuffle_masks and config.sparsity == 0:
        raise InputError("shuffle_masks needs masks, and a dense run has none: leave it out")
    if config.masks is not None:
        return None
    if not all(isinstance(name, str) for name in config.pruning.settings):
        raise InputError(f"pruning.settings must be values by name, got {config.pruning.settings}")
    if "seed" in config.pruning.settings:
        raise InputError("pruning.settings has no seed of its own: give --seed")
    criterion = criterion_named(config.method, seed=config.seed, **config.pruning.settings)
    exponential(1 - config.sparsity, 1)
    rounds = criterion.rounds_to(config.sparsity) if config.rounds is None else config.rounds
    exponential(1 - config.sparsity, rounds)
    given = config.density_from is not None
    check_ranking(config.sparsity, config.ranking, config.pattern, config.granularity, given)
    if config.pattern and config.shuffle_masks:
        raise InputError(f"shuffled masks would not keep the pattern {config.pattern}: leave one of the two out")
    if config.granularity != "weight" and config.shuffle_masks:
        raise InputError(f"shuffled masks would not keep whole {config.granularity}s: leave one of the two out")
    if isinstance(criterion, TrainingCriterion) and config.sparsity and not (criterion.epochs or config.epochs):
        raise InputError(
            f"{config.method} trains before it prunes: give --pruning.settings.epochs, or --epochs above 0"
        )
    return criterion


def scope_of(task: Task, config: RunConfig) -> list[str]:
    """What is pruned: the task's scope, less the layers that are to stay dense."""
    return [task.scope, *(f"-{layer}" for layer in config.keep_dense)]


def make_plan(model: nn.Module, task: Task, criterion: Criterion, config: RunConfig) -> Plan:
    """What the pruning of the run will do.

    Raises InputError for what the network shows to be impossible: layers to be kept dense that are not the backbone's,
    layers that the pattern does not fit, and whatever `px_seg.prune` refuses.
    """
    for layer in config.keep_dense:
        if not layer.startswith(f"{task.scope}."):
            raise InputError(f"keep_dense must name layers of the backbone, such as {task.scope}.conv1: got {layer!r}")
    scope = scope_of(task, config)
    prunable(model, scope)
    if config.pattern is not None:
        Pattern.parse(config.pattern).check(model, scope, "keep them dense with --keep_dense '[{}]'")
    density_from = None
    if config.density_from is not None:
        try:
            density_from = Masks.load(mask_file(config.density_from, "--density_from"))
        except InputError as error:
            raise InputError(
                f"density_from: {error}: give a finished run's folder, or a method whose runs this sweep has already"
            ) from None
    asked = (config.rounds, config.ranking, config.pattern, config.granularity)
    return plan_pruning(model, config.sparsity, criterion, scope, *asked, density_from)


def notes_on_pattern(model: nn.Module, plan: Plan) -> list[str]:
    """Which layers the plan's pattern leaves out, for a reader."""
    if plan.start.provenance.pattern is None:
        return []
    pattern = Pattern.parse(plan.start.provenance.pattern)
    exempt = pattern.exempt(model, plan.scope)
    if not exempt:
        return []
    return [
        f"{len(exempt)} of {len(plan.start)} layers have fewer than {pattern.channels} input or output channels in a "
        f"group, or a number of inputs that {pattern.m} does not divide, and need not keep the pattern {pattern}: "
        f"{', '.join(exempt)}"
    ]


def draw_batches(task: Task, criterion: Criterion | None, config: RunConfig) -> list[list[Key]]:
    """The samples of the batches that the criterion scores with; none if it scores without.

    Raises InputError unless the training set fills them.
    """
    return task.pruning_draw() if criterion is not None and criterion.needs_data and config.sparsity > 0 else []


def equip(criterion: Criterion, task: Task, train: Callable[[nn.Module, Masks, int | None], None]) -> Criterion:
    """The criterion with the task's loss, where it uses a loss, and the training, where it trains.

    `train(model, masks, epochs)` trains the model in place under the masks, None for the run's own epochs.
    """
    if isinstance(criterion, TrainingCriterion):
        return replace(criterion, train=lambda model, masks: train(model, masks, criterion.epochs))
    return replace(criterion, loss=task.loss) if isinstance(criterion, LossCriterion) else criterion


def try_out(model: nn.Module, plan: Plan, batches: Batches, criterion: Criterion, method: str) -> None:
    """Score two images: what the criterion cannot do shows before anything is written.

    Raises InputError for that. A criterion that trains is not tried.
    """
    if not plan.densities or isinstance(criterion, TrainingCriterion):
        return

    def score(trial: Batches) -> None:
        plan.start.beside(model).keep_top(scored(criterion, model, trial, scope=plan.scope), 1.0)

    with naming_file(criterion, method), unchanged(model, criterion, method):
        try:
            try:
                score([(images[:2], targets[:2]) for images, targets in batches[:1]])
            except NothingToRank:
                # Those two may have no labels: others may well.
                score(batches)
        except InputError as error:
            raise InputError(f"the method {method} cannot score this network: {error}") from None


def find_masks(
    model: nn.Module,
    plan: Plan,
    batches: Batches,
    criterion: Criterion,
    folder: RunFolder,
    config: RunConfig,
    accelerator: Accelerator,
    termination: Termination,
    agreement: Agreement,
    repair: Repair | None = None,
) -> Masks:
    """Masks as planned, from the batches of all processes and the same on all.

    Every `SAVE_EVERY` seconds, and where it is told to end, the main process saves those of the last round, from which
    `resume` continues.
    """
    rounds, main = len(plan.densities), accelerator.is_main_process
    start = _read(folder.partial, model, plan, config) if config.resume and folder.partial.is_file() else None
    before = 0.0 if start is None else start.provenance.seconds or 0.0
    started = saved = time.perf_counter()
    last = start

    def labelled(masks: Masks) -> Masks:
        seconds = before + time.perf_counter() - started
        return masks.with_provenance(
            **_asked(config), encoder=config.encoder, weights=config.weights, seconds=round(seconds, 3)
        )

    with bar(total=rounds, desc=f"pruning with {config.method}", unit="round", show=main and rounds > 0) as progress:

        def note(number: int, masks: Masks) -> None:
            nonlocal saved, last
            last = masks
            progress.set_postfix(density=f"{masks.density:.2%}", refresh=False)
            progress.update(number - progress.n)
            # A training took long, and its checkpoints are of use only with the masks that it was under.
            due = isinstance(criterion, TrainingCriterion) or time.perf_counter() - saved > SAVE_EVERY
            if main and number < rounds and due:
                labelled(masks).save(folder.partial)
                saved = time.perf_counter()
            stop_together(termination, agreement)

        group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
        try:
            with naming_file(criterion, config.method), unchanged(model, criterion, config.method):
                masks = carry_out(
                    plan, model, batches, criterion, on_round=note, group=group, start=start, repair=repair
                )
        except KeyboardInterrupt:
            if main and last is not None:
                with termination.deferred():
                    labelled(last).save(folder.partial)
            raise
    masks = labelled(masks.shuffled(config.seed) if config.shuffle_masks else masks)
    if main:
        masks.save(folder.masks)
        folder.drop_pruning()
    return masks


def resumed_masks(model: nn.Module, plan: Plan, folder: RunFolder, config: RunConfig) -> Masks:
    """The masks of the run to be resumed. InputError unless they fit the model and what was asked for."""
    masks = _read(folder.masks, model, plan, config)
    folder.drop_pruning()
    if not 0 <= round((1 - config.sparsity) * masks.total) - masks.kept < plan.unit:
        raise InputError(_foreign(folder.masks))
    return masks


def _read(path: Path, model: nn.Module, plan: Plan, config: RunConfig) -> Masks:
    try:
        masks = Masks.load(path, model)
    except InputError as error:
        raise InputError(f"{error}: delete it, and --resume prunes again") from None
    same = all(getattr(masks.provenance, key) == value for key, value in _asked(config).items())
    if not same or list(masks) != list(plan.start):
        raise InputError(_foreign(path))
    return masks


def _foreign(path: Path) -> str:
    return f"{path} is damaged or belongs to another run: delete it, and --resume prunes again"


def reinitialise(model: nn.Module, task: Task, config: RunConfig) -> None:
    """Give the model new weights, in place: those of a network with weights none, drawn from the seed.

    Everything is drawn anew, norms and head as well, and differs from what the seed drew first.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("reinit", config.seed))
        fresh = task.build_model()
    model.load_state_dict(fresh.state_dict())


def _asked(config: RunConfig) -> dict[str, Any]:
    """What of the configuration decides the masks, by the fields of their provenance."""
    return {
        "method": config.method,
        "sparsity": config.sparsity,
        "seed": config.seed,
        "repaired": config.recalibrate if config.recalibrate_rounds else None,
        "shuffled": config.shuffle_masks,
    }
