"""Criteria that score a weight by the paths through it: PX, and SynFlow, which knows no data."""

from dataclasses import dataclass
from typing import ClassVar

from px_seg.errors import InputError
from px_seg.pruning.batches import sample_shape
from px_seg.pruning.bound import FOLD, Streams, kernel_bound, path_bound
from px_seg.pruning.criteria.base import Criterion, register
from px_seg.pruning.precision import PRECISIONS
from px_seg.pruning.released import BatchActivations, BatchKernel
from px_seg.pruning.streams import Magnitudes, Squares

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
    reads the network as the authors' released program does (`px_seg.pruning.released`): for
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
            raise InputError(f"PX knows no bn={self.bn!r}: choose one of {', '.join(_READINGS)}")
        if self.precision is not None and self.precision not in list(PRECISIONS):
            raise InputError(f"PX knows no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    def score(self, model, batches=(), masks=None, scope=None, group=None):
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


@register("synflow")
@dataclass(frozen=True)
class SynFlow(Criterion):
    """theta * dR/dtheta of the network with |theta| for weights, on an input of ones (Tanaka et al., NeurIPS 2020).

    R is the sum of its outputs, and the network linear: no activation functions, no biases. Of the batches
    only a sample's shape counts, so more than one are no use.

    A BatchNorm multiplies by |gamma| / sqrt(var + eps), running statistics, without its shift. The published
    program takes absolute values of all BatchNorm's numbers in eval mode: the same in a fresh
    network, where mean and shift are 0; in a trained one its |beta| - |mean| would be no flow from the input.
    """

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        """The scores >= 0 of the weights in `scope`, in at least float32.

        Where R leaves the range of the dtype, all are divided by one common power of two. Raises
        InputError for no batches and for masks that do not fit or leave no path, and UnsupportedOperation
        where paths are not defined.
        """
        shape = sample_shape(batches, group)
        return kernel_bound(model, shape, masks, scope, Magnitudes, exponent=1).scores()


@register("synflow_l2")
@dataclass(frozen=True)
class SynFlowL2(Criterion):
    """theta**2 * dR/d(theta**2) with theta**2 for weights: PX with g set to one (Gebhart et al., 2021).

    So R is the sum of the path kernel h over the outputs. BatchNorm as in PX with `bn="fold"`; a constant that
    multiplies features, a gate of g in PX, is squared.
    """

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        """The scores >= 0 of the weights in `scope`; see `SynFlow.score`."""
        return kernel_bound(model, sample_shape(batches, group), masks, scope, Squares).scores()
