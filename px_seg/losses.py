"""Losses that pruning and tasks share, and the weights of classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from px_seg.errors import InputError


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hardest: float = 1.0,
) -> Tensor:
    """Mean cross-entropy over the targets that are labelled, each counting by its class's weight; 0 when none is.

    `logits` (N, C, ...), `targets` (N, ...) int64 classes, or `ignore_index` where nothing is known: by default 255 in
    label maps, as in VOC, and no class where a sample has one label, for there may be more than 255 classes. `weights`
    (C,) are those of the classes; by default all are 1. `label_smoothing` is torch's. Of the labelled targets only
    the share `hardest`, above 0, with the largest loss counts, weights included (Shrivastava et al., "Training
    region-based object detectors with online hard example mining", CVPR 2016; Wu et al., arXiv 1604.04339), at least
    one of them, and the mean is over these.

    Raises InputError for logits that are not one tensor.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"cross-entropy needs one tensor of logits, but the model returns a {type(logits).__name__}: "
            "give another loss"
        )
    ignore_index = _ignored(targets, ignore_index)
    if weights is not None:
        weights = weights.to(logits)
    least = 1 if weights is None else torch.finfo(weights.dtype).tiny
    if hardest == 1:
        total = F.cross_entropy(
            logits, targets, weights, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
        )
        return total / label_mass(targets, ignore_index, weights).clamp(min=least)
    each = F.cross_entropy(
        logits, targets, weights, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    known = targets != ignore_index
    # Ignored ones are below all others, whose loss is at least 0. How many there are has to be known here.
    ranked = each.masked_fill(~known, -1).flatten()
    largest = ranked.topk(max(1, round(hardest * int(known.sum()))), sorted=False)
    chosen = label_mass(targets.flatten()[largest.indices], ignore_index, weights)
    return largest.values.clamp(min=0).sum() / chosen.clamp(min=least)


def label_mass(targets: Tensor, ignore_index: int | None = None, weights: Tensor | None = None) -> Tensor:
    """The sum of the weights of all labelled targets, a scalar; their number without `weights` (C,).

    `targets` and `ignore_index` are those of `cross_entropy`, which is the mean over this.
    """
    ignore_index = _ignored(targets, ignore_index)
    known = targets != ignore_index
    if weights is None:
        return known.sum()
    return torch.where(known, weights.to(targets.device)[torch.where(known, targets, 0)], 0).sum()


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference of outputs (N, C) and one-hot labels, from `labels` (N,) int64, over both."""
    return F.mse_loss(outputs, F.one_hot(labels, outputs.shape[1]).to(outputs.dtype))


def balancing_weights(counts: Tensor) -> Tensor:
    """The weight of a label of each class, n / (C n_c), so that all C classes that occur weigh the same.

    From counts n_c, one a class; float64, and 0 for a class that does not occur.
    """
    present = counts > 0
    balanced = counts.sum().double() / (present.sum() * counts.double().clamp(min=1))
    return torch.where(present, balanced, 0)


def _ignored(targets: Tensor, ignore_index: int | None) -> int:
    if ignore_index is not None:
        return ignore_index
    return 255 if targets.dim() > 1 else -100
