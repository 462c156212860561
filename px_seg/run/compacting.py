"""The pruned network of a run made smaller before it is trained, and found again where a training goes on."""

from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from px_seg.deploy import shrink
from px_seg.devices import copy_from_main, main_only
from px_seg.errors import InputError
from px_seg.models.narrow import cut_to
from px_seg.pruning import Masks
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


def compacted_as_in(checkpoint: Path, model: nn.Module, left: tuple[str, ...], folder: RunFolder) -> Compacted:
    """The model in the smaller tensors of a checkpoint, whose values are still to be loaded.

    Raises InputError where files are damaged.
    """
    try:
        small = cut_to(model, load_file(checkpoint / "model.safetensors"))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"the checkpoint {checkpoint} is damaged: start again with --overwrite") from error
    return Compacted(small, Masks.load(folder.compact_masks, small), left)
