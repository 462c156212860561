"""The network of a finished run in the fewest channels that it can have."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from px_seg.data.normalisation import IMAGENET
from px_seg.deploy.card import Card, run_of
from px_seg.errors import InputError
from px_seg.models import COARSEST, is_compacted, load_model, tell_normalisation
from px_seg.pruning import Masks, UnsupportedOperation
from px_seg.pruning.compaction.shrinking import shrink
from px_seg.pruning.modes import evaluating
from px_seg.run.folder import RunFolder


class RunNetwork(NamedTuple):
    """A run's network, on the CPU in eval mode."""

    model: nn.Module
    masks: Masks | None
    """Of its weights; None for a dense run."""
    kind: str
    """dense, masked or compacted."""
    said: Sequence[str]
    """What became of its size, in lines."""


def saved_network(folder: Path, card: Card) -> nn.Module:
    """The network of a finished run as it was saved, on the CPU in eval mode; it says how its images are normalised.

    Raises InputError where it cannot be read, and where it does not tell the run's classes apart.
    """
    model = load_model(folder)
    _check_classes(model, card, folder)
    if getattr(model, "normalisation", None) is None:
        # Runs that did not write it down yet had ImageNet's.
        tell_normalisation(model, card.normalisation or IMAGENET)
    return model.eval()


def as_saved(folder: Path, card: Card) -> RunNetwork:
    """The network of a finished run, or of its best epoch, with its masks.

    Raises InputError where it cannot be read, and where its masks are missing or not its own.
    """
    model, held = saved_network(folder, card), RunFolder(run_of(folder))
    if not card.sparsity:
        return RunNetwork(model, None, "dense", ["dense: nothing to compact"])
    cut = is_compacted(folder)
    file = held.compact_masks if cut else held.masks
    masks = Masks.load(file, model)
    if revived := masks.revived(model.state_dict()):
        raise InputError(f"{file} is not of the network in {folder}: it prunes weights of {next(iter(revived))}")
    if cut:
        return RunNetwork(model, masks, "compacted", ["compacted by the run"])
    return RunNetwork(model, masks, "masked", ["left as it is, with zeros for pruned weights"])


def smallest(folder: Path, card: Card) -> RunNetwork:
    """The network of a finished run, compacted by the run or here.

    Raises what `as_saved` does.
    """
    saved = as_saved(folder, card)
    model, masks = saved.model, saved.masks
    if saved.kind != "masked" or masks is None:
        return saved
    side = -(-card.size // COARSEST) * COARSEST
    try:
        found = shrink(model, masks, (card.channels, side, side))
    except UnsupportedOperation as error:
        return RunNetwork(model, masks, "masked", [f"left as it is, for it cannot be compacted: {error}"])
    tell_normalisation(found.model, model.normalisation)  # type: ignore[arg-type]
    wide, narrow = (sum(one.numel() for one in network.parameters()) for network in (model, found.model))
    said = [f"compacted from {wide:,} parameters to {narrow:,}", *(f"not made smaller: {what}" for what in found.left)]
    return RunNetwork(found.model.eval(), Masks(found.masks, masks.provenance), "compacted", said)


def _check_classes(model: nn.Module, card: Card, folder: Path) -> None:
    """Raise InputError where a run's network tells another number of classes apart than its results."""
    side = -(-card.size // COARSEST) * COARSEST
    parameter = next(model.parameters())
    with evaluating(model), torch.inference_mode():
        images = torch.zeros((1, card.channels, side, side), dtype=parameter.dtype, device=parameter.device)
        found = model(images).shape[1]
    if found != len(card.classes):
        raise InputError(
            f"the network in {folder} tells {found} classes apart, and its results.json {len(card.classes)}: one of "
            "the two is of another run"
        )
