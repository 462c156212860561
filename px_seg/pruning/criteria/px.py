"""Path eXclusion."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, checked_batches
from px_seg.pruning.criteria.base import InForce, Scores, register
from px_seg.pruning.criteria.conserving import ConservingCriterion, conserved
from px_seg.pruning.distributed import Group
from px_seg.pruning.paths.bound import FOLD, Streams, path_bound
from px_seg.pruning.paths.precision import PRECISIONS
from px_seg.pruning.paths.released import BY_BATCH, BY_NAME
from px_seg.pruning.scope import Scope
from px_seg.pruning.statistics import lent_statistics, statistics_of

_READINGS: dict[str, Streams] = {"fold": FOLD, "batch": BY_BATCH, "released": BY_NAME}
_STATISTICS = ("own", "batches")


@register("px")
@dataclass(frozen=True)
class PX(ConservingCriterion):
    """Path eXclusion (Iurada, Ciccone, Tommasi, CVPR 2024): S_j = theta_j**2 * dR/d(theta_j**2).

    With R = sum_x sum_k g_k(x) h_k, sum_j dR/d(theta_j**2) bounds the trace of the Neural Tangent Kernel
    (docs/method.md, section 1). R is linear in each theta_j**2, so S_j is what R loses without the weight. h does not
    depend on the data, so g is summed over all samples first and one backward pass at batch
    one gives all scores. For what this makes of the data and of residual branches, see sections 5 and 6 there.

    `bn="fold"` reads a BatchNorm by its running statistics as part of the weights. `bn="batch"`
    reads every BatchNorm as the authors' released program reads one with "bn" in its name, and `bn="released"` is
    that program's rule by names, biases included (`px_seg.pruning.paths.released`): both for
    comparison with it, and in float64, because they are badly conditioned.

    `precision` is that of the walk: "float64", "float32", "tf32" (NVIDIA GPUs) or "bfloat16";
    without it, the weights' own. What follows the walk is at least float32.

    `statistics="batches"` reads BatchNorms by the statistics that the pruning batches have under the masks in force,
    in place of their running ones: 0 and 1 in a random network. An ablation (`px_seg.pruning.statistics`).

    `conserve` divides the scores of a layer by a power of their sum; see `ConservingCriterion`. The paper's PX has 0.
    """

    bn: str = "fold"
    precision: str | None = None
    statistics: str = "own"

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True
    walks_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, choices in (("bn", _READINGS), ("statistics", _STATISTICS)):
            if getattr(self, setting) not in list(choices):
                value = getattr(self, setting)
                raise InputError(f"PX has no {setting}={value!r}: choose one of {', '.join(choices)}")
        if self.precision is not None and self.precision not in list(PRECISIONS):
            raise InputError(f"PX has no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    @property
    def by_paths(self) -> bool:
        """Other readings of BatchNorm look at values that constants have, and a class with a score of its own may."""
        return type(self).score is PX.score and self.bn == "fold" and self.statistics == "own"

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores S_j >= 0 of the weights in `scope`, in at least float32.

        R is taken at all outputs of the whole model whatever the scope. All samples have one
        shape. Where R itself leaves the range of the dtype, all scores are divided by one
        common power of two.

        Raises InputError for no batches, samples of different shapes, a non-finite R, and masks that
        do not fit or leave no path, and UnsupportedOperation, naming
        module and operation, where paths are not defined.
        """
        read: AbstractContextManager[None] = nullcontext()
        if self.statistics == "batches":
            batches = list(checked_batches(batches))
            read = lent_statistics(model, statistics_of(model, batches, masks, group))
        with read:
            scores = path_bound(model, batches, masks, scope, _READINGS[self.bn], self.precision, group).scores()
        # Negative ones are known to the released readings alone.
        scores = scores if self.bn == "fold" else {name: score.abs_() for name, score in scores.items()}
        return conserved(scores, self.conserve)


@register("px_conserved")
@dataclass(frozen=True)
class PXConserved(PX):
    """PX with the scores of every layer summing to 1, so that no branch beside a shortcut starves.

    Along a chain of layers the ranking is that of PX (docs/method.md, section 5).
    """

    conserve: float = 1.0
