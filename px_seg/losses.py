"""Losses that pruning and tasks share."""

import torch.nn.functional as F
from torch import Tensor

from px_seg.errors import InputError


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int | None = None) -> Tensor:
    """Mean cross-entropy over the targets that are labelled; 0 when none is.

    `logits` (N, C, ...), `targets` (N, ...) int64 classes, or `ignore_index` where nothing is known: by default 255 in
    label maps, as in VOC, and no class where a sample has one label, for there may be more than 255 classes.
    Raises InputError for logits that are not one tensor.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"cross-entropy needs one tensor of logits, but the model returns a {type(logits).__name__}: "
            "give another loss"
        )
    if ignore_index is None:
        ignore_index = 255 if targets.dim() > 1 else -100
    total = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1)


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference of outputs (N, C) and one-hot labels, from `labels` (N,) int64, over both."""
    return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).to(outputs.dtype))
