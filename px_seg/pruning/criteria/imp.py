"""Iterative magnitude pruning: the lottery-ticket reference, which trains before it prunes."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.criteria.base import Criterion, check_positive, register
from px_seg.pruning.masks import Masks
from px_seg.pruning.scope import prunable

Train = Callable[[nn.Module, Masks], None]
"""Trains the model in place, its pruned weights held at 0."""


def _cannot_train(model: nn.Module, masks: Masks) -> None:
    raise InputError("imp has to train: give it IMP(train=...), a function of a model and its masks")


@register("imp")
@dataclass(frozen=True)
class IMP(Criterion):
    """|theta| after training from the start under the masks in force (Frankle and Carbin, 2019).

    Each round of `prune` is then one of the lottery ticket hypothesis: train, prune the smallest weights of those
    left, rewind to the start. A copy is trained, so the model never leaves its start. `keep` is the share of
    the weights that a round keeps unless the number of rounds is given: 0.8 in the paper.

    `epochs` is for `train`, which says what it makes of None. BatchNorm is as `train` has it.
    """

    keep: float = 0.8
    epochs: int | None = None
    train: Train = field(default=_cannot_train, repr=False)

    def __post_init__(self) -> None:
        check_positive(self, "keep")
        if self.epochs is not None:
            check_positive(self, "epochs", whole=True)
        if self.keep >= 1:
            raise InputError(f"IMP: keep must be below 1, or no round prunes anything, got {self.keep}")

    def rounds_to(self, sparsity: float) -> int:
        """The fewest rounds of which none keeps less than `keep` of the weights."""
        # Not up from what only rounding made more than a whole number.
        return max(1, math.ceil(math.log(1 - sparsity) / math.log(self.keep) - 1e-9))

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        """The magnitudes, of the weights' dtype. `batches` are not read; `train` has its own."""
        trained = copy.deepcopy(model)
        self.train(trained, Masks.ones(model, scope) if masks is None else Masks(masks))
        return {name: weight.detach().abs() for name, weight in prunable(trained, scope).items()}
