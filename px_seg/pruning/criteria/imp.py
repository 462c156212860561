"""Iterative magnitude pruning: the lottery-ticket reference, which trains before it prunes."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches
from px_seg.pruning.criteria.base import Criterion, InForce, Scores, check_positive, register
from px_seg.pruning.distributed import Group
from px_seg.pruning.masks import Masks
from px_seg.pruning.scope import Scope, as_list, prunable

Train = Callable[[nn.Module, Masks], None]
"""Trains the model in place, its pruned weights held at 0."""


def _cannot_train(model: nn.Module, masks: Masks) -> None:
    raise InputError("imp has to train: give it a function of a model and its masks, IMP(train=...)")


@dataclass(frozen=True, kw_only=True)
class TrainingCriterion(Criterion):
    """A criterion that trains the network before it scores it.

    `train(model, masks)` trains the model in place; `epochs` tells whoever supplies it how long, None for as
    long as the network is fine-tuned in the end.
    """

    epochs: int | None = None
    train: Train = field(default=_cannot_train, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None:
            check_positive(self, "epochs", whole=True)


@register("imp")
@dataclass(frozen=True)
class IMP(TrainingCriterion):
    """|theta| after training from the start under the masks in force (Frankle and Carbin, ICLR 2019).

    Each round of `prune` is then one of the lottery ticket hypothesis: train, prune the smallest weights of those
    left, rewind to the start. A copy is trained, so the model never leaves its start. `keep` is the share of
    the weights that a round keeps unless the number of rounds is given: 0.8 in the paper.

    BatchNorm is as `train` has it.
    """

    keep: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "keep")
        if self.keep >= 1:
            raise InputError(f"IMP: keep must be below 1, or no round prunes anything, got {self.keep}")

    def rounds_to(self, sparsity: float) -> int:
        """The fewest rounds of which none keeps less than `keep` of the weights."""
        # Not rounded up where only rounding errors exceed a whole number.
        return max(1, math.ceil(math.log(1 - sparsity) / math.log(self.keep) - 1e-9))

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The magnitudes, of the weights' dtype. `batches` are not read; `train` has its own."""
        scope = as_list(scope)
        device = next(iter(prunable(model, scope).values())).device
        # The caller's contexts do not reach the training; one that wants autocast opens it.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            trained = copy.deepcopy(model)
            self.train(trained, Masks.ones(model, scope) if masks is None else Masks(masks))
        return {name: weight.detach().abs() for name, weight in prunable(trained, scope).items()}
