"""The network of a finished run in the fewest channels that it can have."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from px_seg.deploy.card import Card
from px_seg.errors import InputError
from px_seg.models import is_compacted, load_model, tell_normalisation
from px_seg.pruning import Masks, UnsupportedOperation
from px_seg.pruning.compaction.shrinking import shrink
from px_seg.run.folder import RunFolder

_STEP = 32
"""What divides the sides of images that every network takes."""


class Smallest(NamedTuple):
    """A run's network, on the CPU in eval mode."""

    model: nn.Module
    masks: Masks | None
    """Of its weights; None for a dense run."""
    said: Sequence[str]
    """What became of its size, in lines."""


def smallest(folder: Path, card: Card) -> Smallest:
    """The network of a finished run, compacted by the run or here.

    Raises InputError where it cannot be read, and where its masks are missing or not its own.
    """
    model, held = load_model(folder), RunFolder(folder)
    if getattr(model, "normalisation", None) is None:
        tell_normalisation(model, card.normalisation)
    if is_compacted(folder):
        return Smallest(model, Masks.load(held.compact_masks, model), ["compacted by the run"])
    if not card.sparsity:
        return Smallest(model, None, ["dense: nothing to compact"])
    masks = Masks.load(held.masks, model)
    if revived := masks.revived(model.state_dict()):
        raise InputError(f"{held.masks} is not of the network in {folder}: it prunes weights of {next(iter(revived))}")
    side = -(-card.size // _STEP) * _STEP
    try:
        found = shrink(model, masks, (3, side, side))
    except UnsupportedOperation as error:
        return Smallest(model, masks, [f"exported as it is, for it cannot be compacted: {error}"])
    tell_normalisation(found.model, model.normalisation)  # type: ignore[arg-type]
    wide, narrow = (sum(one.numel() for one in network.parameters()) for network in (model, found.model))
    said = [f"compacted from {wide:,} parameters to {narrow:,}", *(f"not made smaller: {what}" for what in found.left)]
    return Smallest(found.model.eval(), Masks(found.masks, masks.provenance), said)
