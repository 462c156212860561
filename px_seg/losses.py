"""Losses that pruning and tasks share."""

import torch.nn.functional as F
from torch import Tensor

from px_seg.errors import InputError


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = 255) -> Tensor:
    """Mean cross-entropy over the targets that are labelled; 0 when none is.

    `logits` (N, C, ...), `targets` (N, ...) int64 classes, or `ignore_index` where nothing is known.
    Raises InputError for logits that are not one tensor.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"cross-entropy needs one tensor of logits, the model returns a {type(logits).__name__}: give another loss"
        )
    total = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1)
