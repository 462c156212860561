"""What criteria are given to score with."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from px_seg.errors import InputError
from px_seg.pruning.distributed import Group, all_gather, run_on_all_ranks

Batches: TypeAlias = Iterable[Tensor | tuple[Tensor, Any] | list[Any]]
"""Image tensors (N, C, H, W), or pairs that begin with one."""

NO_IMAGES = "there are no images: give at least one batch"


def checked_batches(batches: Batches) -> Batches:
    """The batches as they are. InputError for what is no list, a tensor included: its parts would pass for batches."""
    if isinstance(batches, Tensor):
        raise InputError("batches must be a list of image tensors, got a single tensor: put it in a list")
    if not isinstance(batches, Iterable):
        raise InputError(f"batches must be a list of image tensors or of pairs, got {type(batches).__name__}")
    return batches


def images_of(batches: Batches, like: Tensor) -> Iterator[Tensor]:
    """The images of every batch, of the dtype and on the device of `like`.

    InputError unless they are tensors of one sample shape.
    """
    shape = None
    for batch in checked_batches(batches):
        images = _images(batch)
        if shape is not None and images.shape[1:] != shape:
            raise InputError(_shapes_differ([shape, images.shape[1:]]))
        shape = images.shape[1:]
        yield _placed(images, like.device, like.dtype)


def shapes_of(batches: Batches) -> list[torch.Size]:
    """The shapes (N, C, H, W) of the images of every batch. Raises what `images_of` does."""
    shapes = [_images(batch).shape for batch in checked_batches(batches)]
    for shape in shapes:
        if shape[1:] != shapes[0][1:]:
            raise InputError(_shapes_differ([shapes[0][1:], shape[1:]]))
    return shapes


def labelled(batches: Batches, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of every batch, of the dtype and on the device of `like`, and their targets on that device.

    InputError for a batch that is not a pair of tensors of one length.
    """
    for batch in checked_batches(batches):
        images = _images(batch)
        targets = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        if not isinstance(targets, Tensor) or targets.dim() == 0 or len(targets) != len(images):
            raise InputError("this criterion scores with a loss: a batch must be a pair of images and as many targets")
        yield _placed(images, like.device, like.dtype), _placed(targets, like.device)


def one_shape(shapes: Iterable[torch.Size | None]) -> torch.Size:
    """The shape that all samples have; None is a process without any. InputError when there is none, or several."""
    known = sorted({shape for shape in shapes if shape is not None})
    if not known:
        raise InputError(NO_IMAGES)
    if len(known) > 1:
        raise InputError(_shapes_differ(known))
    return known[0]


def sample_shape(batches: Batches, group: Group) -> torch.Size:
    """The shape of one sample, (C, H, W), from the first batch of every process in the group."""

    def own() -> torch.Size | None:
        return next((_images(batch).shape[1:] for batch in checked_batches(batches)), None)

    return one_shape(all_gather(group, run_on_all_ranks(group, own)))


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    # A tensor made in inference mode cannot be saved for a backward pass; its clone can.
    tensor = tensor.clone() if tensor.is_inference() else tensor
    return tensor.to(device, dtype)


def _images(batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(images, Tensor) or images.dim() < 2 or images.numel() == 0 or images.is_complex():
        what = (
            f"a tensor of shape {tuple(images.shape)} and {images.dtype}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise InputError(
            f"a batch must be a real tensor (N, ...) of images, or a pair that begins with one; got {what}"
        )
    return images


def _shapes_differ(shapes: Iterable[torch.Size]) -> str:
    return f"all samples must have one shape: got {' and '.join(str(tuple(shape)) for shape in shapes)}"
