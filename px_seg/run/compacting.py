"""The pruned network of a run made smaller before it is trained, and found again where a training goes on."""

from collections.abc import Mapping
from typing import NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from px_seg.devices import copy_from_main, main_only
from px_seg.errors import InputError
from px_seg.pruning import Masks
from px_seg.pruning.compaction.narrow import cut_to
from px_seg.pruning.compaction.shrinking import shrink
from px_seg.run.folder import RunFolder
from px_seg.tasks import Task


class Compacted(NamedTuple):
    """The network that is trained."""

    model: nn.Module
    masks: Masks
    """Of its weights."""
    left: tuple[str, ...]
    """What could not be made smaller, in words."""


def compacted(accelerator: Accelerator, model: nn.Module, task: Task, masks: Masks, folder: RunFolder) -> Compacted:
    """The model in smaller tensors, the same on all processes; its masks are written to the folder."""
    image, _ = task.train[0, 0]
    found = shrink(model, masks, image.shape)
    copy_from_main(accelerator, found.model.state_dict().values())
    small = Compacted(found.model, Masks(found.masks), tuple(found.left))
    main_only(accelerator, lambda: small.masks.save(folder.compact_masks))
    return small


def compacted_as(state: Mapping[str, Tensor], model: nn.Module, left: tuple[str, ...], folder: RunFolder) -> Compacted:
    """The model in the smaller tensors of a state dict, whose values are still to be loaded.

    Raises InputError where the masks in the folder do not fit.
    """
    small = cut_to(model, state)
    try:
        return Compacted(small, Masks.load(folder.compact_masks, small), left)
    except InputError as error:
        raise InputError(f"{error}: delete {folder.checkpoint}, and --resume compacts and trains again") from None
