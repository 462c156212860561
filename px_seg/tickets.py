"""Masks that come from a file: tickets found by another run, on this task or another."""

import json
from pathlib import Path

from torch import nn

from px_seg.config import RunConfig
from px_seg.errors import InputError
from px_seg.pruning import CRITERIA, Masks, prunable
from px_seg.tasks import Task


def origin(masks: Masks) -> tuple[str, float]:
    """The method and the sparsity of the pruning that made the masks, as their metadata has them.

    A run writes its method; `prune` the class of its criterion; without either the method is `given`, and the
    sparsity is counted.
    """
    made = masks.metadata
    by_class = {kind.__name__: name for name, kind in CRITERIA.items()}
    criterion = made.get("criterion", "given")
    return made.get("method", by_class.get(criterion, criterion)), float(made.get("sparsity", masks.sparsity))


def kept_dense(masks: Masks) -> list[str]:
    """The parts that were taken out of the scope the masks were made for."""
    scope = json.loads(masks.metadata.get("scope", "null"))
    return [part.removeprefix("-") for part in scope if part.startswith("-")] if isinstance(scope, list) else []


def given_masks(model: nn.Module, task: Task, config: RunConfig) -> Masks:
    """The masks in the configured file, shuffled if asked for, with where they are from in their metadata.

    Raises InputError unless they speak of this backbone, of all weights that they were made for, name for name and
    shape for shape, and are of the configured method and sparsity.
    """
    path = Path(config.masks).expanduser()
    masks = Masks.load(path)
    made = masks.metadata
    encoder = made.get("encoder", config.encoder)
    if encoder.partition(".")[0] != config.encoder.partition(".")[0]:
        raise InputError(f"{path} holds masks of the backbone {encoder}, not of {config.encoder}: --encoder {encoder}")
    try:
        masks.check(model)
        scope = json.loads(made["scope"]) if "scope" in made else task.scope
        left = [name for name in prunable(model, scope) if name not in masks]
    except (InputError, ValueError) as error:
        raise InputError(f"{path} is not for this model: {error}") from None
    if left:
        raise InputError(
            f"{path} is not for this backbone: it has no masks for {len(left)} of its weights, {left[0]} for one"
        )
    if not any(name.startswith(f"{task.scope}.") for name in masks):
        raise InputError(f"{path} has no masks for the backbone, the weights under {task.scope}.")
    method, sparsity = origin(masks)
    if config.method != method or abs(config.sparsity - sparsity) > 1e-6:
        raise InputError(
            f"{path} holds masks of {method} at {sparsity:g}, not of {config.method} at {config.sparsity:g}"
        )
    if config.shuffle_masks:
        if "pattern" in made:
            raise InputError(f"shuffled masks would not keep the pattern {made['pattern']}: leave shuffle_masks out")
        masks = masks.shuffled(config.seed).with_metadata(shuffled="true")
    return masks.with_metadata(seconds="0", given=str(path))
