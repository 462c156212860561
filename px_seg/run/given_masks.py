"""Masks that come from a file: found by another run, on this task or another."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from px_seg.config import RunConfig
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.pruning import CRITERIA, RANKINGS, Masks, Pattern, check_whole, largest_unit, prunable
from px_seg.run.folder import COMPACT_MASKS
from px_seg.tasks import Task


class Origin(NamedTuple):
    """What the masks in a file say of the pruning that made them."""

    method: str
    """A run writes its method; for masks of `prune` it is that of the criterion's class; without either, `given`."""
    sparsity: float
    """Share of the weights pruned, of those the masks were made for."""


def mask_file(text: str, flag: str = "--masks") -> Path:
    """The file that a flag names: itself, or that of the run in a folder."""
    path = user_path(text, flag)
    if path.name == COMPACT_MASKS:
        raise InputError(f"{flag} {path} are those of a compacted network: give {path.parent}, its run's folder")
    return path / "masks.safetensors" if path.is_dir() else path


def origin(masks: Masks, path: Path) -> Origin:
    """Where the masks come from. InputError when what they state is not true of them."""
    made = masks.provenance
    by_class = {kind.__name__: name for name, kind in CRITERIA.items()}
    criterion = made.criterion or "given"
    sparsity = masks.sparsity if made.sparsity is None else made.sparsity
    # A pattern's n:m, and a count rounded to a whole weight, are within one weight a layer; whole units within one.
    unit = largest_unit([mask.shape for mask in masks.values()], made.granularity or "weight")
    if not abs(masks.kept - (1 - sparsity) * masks.total) <= len(masks) + unit:
        raise InputError(
            f"{path} says that {sparsity:.4%} of the weights are pruned, but {masks.sparsity:.4%} are: it is damaged"
        )
    if masks.kept == 0:
        raise InputError(f"{path} keeps no weight at all")
    return Origin(made.method or by_class.get(criterion, criterion), sparsity)


def read_given_masks(model: nn.Module, task: Task, config: RunConfig) -> Masks:
    """The masks in the configured file, shuffled if asked for, with the file in their provenance.

    Raises InputError unless they cover this backbone, all weights that they were made for, name for name and
    shape for shape, and are of the configured method and sparsity.
    """
    assert config.masks is not None
    path = mask_file(config.masks)
    masks = Masks.load(path)
    made = masks.provenance
    source = origin(masks, path)
    encoder = made.encoder or config.encoder
    if encoder.partition(".")[0] != config.encoder.partition(".")[0]:
        raise InputError(
            f"{path} holds masks for the backbone {encoder}, not {config.encoder}: give --encoder {encoder}"
        )
    try:
        masks.check(model)
        _check_stated(masks, model)
    except InputError as error:
        raise InputError(f"{path} is not for this model: {error}") from None
    known = prunable(model)
    if made.scope is None and (left := [name for name in prunable(model, task.scope) if name not in masks]):
        raise InputError(
            f"{path} is not for this backbone: it has no masks for {len(left)} of its weights, such as {left[0]}"
        )
    if stray := [name for name in masks if name not in known]:
        raise InputError(f"{path} has a mask for {stray[0]}, which is not a weight of a convolution or linear layer")
    if not any(name.startswith(f"{task.scope}.") for name in masks):
        raise InputError(f"{path} has no masks for the backbone, the weights under {task.scope}.")
    if config.method != source.method or abs(config.sparsity - source.sparsity) > 1e-6:
        raise InputError(
            f"{path} holds masks of {source.method} at {source.sparsity:g}, not of {config.method} at "
            f"{config.sparsity:g}"
        )
    if config.shuffle_masks:
        if made.pattern is not None:
            raise InputError(f"shuffled masks would not keep the pattern {made.pattern}: leave shuffle_masks out")
        if made.granularity not in (None, "weight"):
            raise InputError(f"shuffled masks would not keep whole {made.granularity}s: leave shuffle_masks out")
        masks = masks.shuffled(config.seed).with_provenance(shuffled=True)
    return masks.with_provenance(seconds=0.0, given=str(path))


def _check_stated(masks: Masks, model: nn.Module) -> None:
    """Raise InputError where the masks are not what they say of granularity, pattern and ranking."""
    made = masks.provenance
    check_whole(masks, made.granularity or "weight", model)
    if made.pattern is not None:
        Pattern.parse(made.pattern).check_kept(masks, model)
    counts = RANKINGS.get(made.ranking or "global")
    if counts is not None and made.granularity in (None, "weight"):
        wanted = counts([mask.shape for mask in masks.values()], masks.kept)
        for (name, mask), count in zip(masks.items(), wanted, strict=True):
            if abs(int(mask.sum()) - count) > 1:
                raise InputError(
                    f"the mask of {name} keeps {int(mask.sum()):,} weights, and the ranking {made.ranking} would have "
                    f"kept {count:,.0f}"
                )


def notes_on(masks: Masks, config: RunConfig) -> list[str]:
    """What a reader should know of given masks on the weights that the run starts from."""
    made, notes = masks.provenance, []
    if made.weights is not None:
        same = made.weights == config.weights and (config.weights != "none" or made.seed == config.seed)
        if not same:
            notes.append(
                f"the masks were found on weights {made.weights}, seed {made.seed}: this run starts from "
                f"{config.weights}, seed {config.seed}"
            )
    if masks.kept == masks.total:
        notes.append(f"the masks in {config.masks} prune nothing")
    return notes
