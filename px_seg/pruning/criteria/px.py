"""Path eXclusion."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches
from px_seg.pruning.criteria.base import Criterion, InForce, Scores, register
from px_seg.pruning.distributed import Group
from px_seg.pruning.paths.bound import FOLD, Streams, path_bound
from px_seg.pruning.paths.precision import PRECISIONS
from px_seg.pruning.paths.released import BatchActivations, BatchKernel
from px_seg.pruning.scope import Scope

_READINGS: dict[str, Streams] = {"fold": FOLD, "batch": Streams(BatchActivations, BatchKernel)}


@register("px")
@dataclass(frozen=True)
class PX(Criterion):
    """Path eXclusion (Iurada, Ciccone, Tommasi, CVPR 2024): S_j = theta_j**2 * dR/d(theta_j**2).

    R = sum_x sum_k g_k(x) h_k bounds the trace of the Neural Tangent Kernel
    (docs/method.md, section 1); R is linear in each theta_j**2, so S_j is what R loses without the weight. h does not
    depend on the data, so g is summed over all samples first and one backward pass at batch
    one gives all scores.

    `bn="fold"` reads a BatchNorm by its running statistics as part of the weights. `bn="batch"`
    reads the network as the authors' released program does (`px_seg.pruning.paths.released`): for
    comparison with it, and in float64, because it is badly conditioned.

    `precision` is that of the walk: "float64", "float32", "tf32" (NVIDIA GPUs) or "bfloat16";
    without it, the weights' own. What follows the walk is at least float32.
    """

    bn: str = "fold"
    precision: str | None = None

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bn not in list(_READINGS):
            raise InputError(f"PX has no bn={self.bn!r}: choose one of {', '.join(_READINGS)}")
        if self.precision is not None and self.precision not in list(PRECISIONS):
            raise InputError(f"PX has no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

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
        scores = path_bound(model, batches, masks, scope, _READINGS[self.bn], self.precision, group).scores()
        return scores if self.bn == "fold" else {name: score.abs_() for name, score in scores.items()}
