"""Masks that come from a file: tickets found by another run, on this task or another."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from torch import nn

from px_seg.config import RunConfig
from px_seg.errors import InputError
from px_seg.paths import user_path
from px_seg.pruning import CRITERIA, Masks, prunable
from px_seg.tasks import Task


class Origin(NamedTuple):
    """What the masks in a file say of the pruning that made them."""

    method: str
    """A run writes its method; for masks of `prune` it is that of the criterion's class; without either, `given`."""
    sparsity: float
    """Share of the weights pruned, of those the masks were made for."""


def kept_dense(masks: Masks) -> list[str]:
    """The parts that were taken out of the scope that the masks were made for."""
    scope = json.loads(masks.metadata.get("scope", "null"))
    return [part.removeprefix("-") for part in scope if part.startswith("-")] if isinstance(scope, list) else []


def mask_file(text: str) -> Path:
    """The file that --masks names: itself, or that of the run in a folder."""
    path = user_path(text, "--masks")
    return path / "masks.safetensors" if path.is_dir() else path


def origin(masks: Masks, path: Path) -> Origin:
    """Where the masks come from. InputError when what they say is damaged, or not true of them."""
    made = masks.metadata
    by_class = {kind.__name__: name for name, kind in CRITERIA.items()}
    criterion = made.get("criterion", "given")
    method = made.get("method", by_class.get(criterion, criterion))
    try:
        scope = json.loads(made.get("scope", "null"))
        parts = scope if isinstance(scope, list) else [scope or ""]
        sparsity = float(made.get("sparsity", masks.sparsity))
        sound = all(isinstance(part, str) for part in parts) and isinstance(
            json.loads(made.get("settings", "{}")), dict
        )
        sound = sound and int(made.get("rounds", 0)) >= 0 and re.fullmatch(r"[\w.-]+", method) is not None
    except ValueError:
        sound = False
    if not sound:
        raise InputError(f"{path} is damaged: its description of where the masks come from cannot be read")
    # A pattern's n:m, and a count rounded to a whole weight, are within one weight a layer.
    if not abs(masks.kept - (1 - sparsity) * masks.total) <= len(masks):
        raise InputError(f"{path} says that {sparsity:.4%} are pruned, but {masks.sparsity:.4%} are: it is damaged")
    if masks.kept == 0:
        raise InputError(f"{path} keeps no weight at all")
    return Origin(method, sparsity)


def given_masks(model: nn.Module, task: Task, config: RunConfig) -> Masks:
    """The masks in the configured file, shuffled if asked for, with where they are from in their metadata.

    Raises InputError unless they speak of this backbone, of all weights that they were made for, name for name and
    shape for shape, and are of the configured method and sparsity.
    """
    path = mask_file(config.masks)
    masks = Masks.load(path)
    made = masks.metadata
    source = origin(masks, path)
    encoder = made.get("encoder", config.encoder)
    if encoder.partition(".")[0] != config.encoder.partition(".")[0]:
        raise InputError(f"{path} holds masks of the backbone {encoder}, not of {config.encoder}: --encoder {encoder}")
    try:
        masks.check(model)
    except InputError as error:
        raise InputError(f"{path} is not for this model: {error}") from None
    if "scope" not in made and (left := [name for name in prunable(model, task.scope) if name not in masks]):
        raise InputError(
            f"{path} is not for this backbone: it has no masks for {len(left)} of its weights, {left[0]} for one"
        )
    if stray := [name for name in masks if name not in prunable(model)]:
        raise InputError(f"{path} has a mask for {stray[0]}, which is no weight of a convolution or linear layer")
    if not any(name.startswith(f"{task.scope}.") for name in masks):
        raise InputError(f"{path} has no masks for the backbone, the weights under {task.scope}.")
    if config.method != source.method or abs(config.sparsity - source.sparsity) > 1e-6:
        raise InputError(
            f"{path} holds masks of {source.method} at {source.sparsity:g}, not of {config.method} at "
            f"{config.sparsity:g}"
        )
    if config.shuffle_masks:
        if "pattern" in made:
            raise InputError(f"shuffled masks would not keep the pattern {made['pattern']}: leave shuffle_masks out")
        masks = masks.shuffled(config.seed).with_metadata(shuffled="true")
    return masks.with_metadata(seconds="0", given=str(path))


def told(masks: Masks, config: RunConfig) -> list[str]:
    """What is to be noted of given masks on the weights that the run starts from."""
    made, notes = masks.metadata, []
    seeds = (made.get("seed"), str(config.seed))
    if "weights" in made:
        same = made["weights"] == config.weights and (config.weights != "none" or seeds[0] == seeds[1])
        if not same:
            notes.append(
                f"the masks were found on weights {made['weights']}, seed {seeds[0]}: this run starts from "
                f"{config.weights}, seed {seeds[1]}"
            )
    if masks.kept == masks.total:
        notes.append(f"the masks in {config.masks} prune nothing")
    return notes
