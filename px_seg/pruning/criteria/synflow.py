"""SynFlow, which scores a weight by the paths through it and uses no data."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, sample_shape
from px_seg.pruning.criteria.base import InForce, Scores, register
from px_seg.pruning.criteria.conserving import ConservingCriterion, conserved
from px_seg.pruning.distributed import Group
from px_seg.pruning.paths.bound import kernel_bound
from px_seg.pruning.paths.released import BatchKernel, NamedKernel
from px_seg.pruning.paths.streams import Kernel, Magnitudes, Squares
from px_seg.pruning.scope import Scope

_KERNELS: dict[str, type[Kernel]] = {"fold": Squares, "batch": BatchKernel, "released": NamedKernel}


@register("synflow")
@dataclass(frozen=True)
class SynFlow(ConservingCriterion):
    """theta * dR/dtheta of the network with |theta| for weights, on an input of ones (Tanaka et al., NeurIPS 2020).

    R is the sum of its outputs, and the network linear: no activation functions, no biases. Of the batches
    only a sample's shape counts, so more than one is of no use.

    A BatchNorm multiplies by |gamma| / sqrt(var + eps), running statistics, without its shift. The published
    program takes absolute values of all BatchNorm's numbers in eval mode: the same in a fresh
    network, where mean and shift are 0; in a trained one its |beta| - |mean| would be no flow from the input.
    """

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True
    walks_paths: ClassVar[bool] = True

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, in at least float32.

        Where R leaves the range of the dtype, all are divided by one common power of two. Raises
        InputError for no batches and for masks that do not fit or leave no path, and UnsupportedOperation
        where paths are not defined.
        """
        shape = sample_shape(batches, group)
        scores = kernel_bound(model, shape, masks, scope, Magnitudes, exponent=1).scores()
        return conserved(scores, self.conserve)


@register("synflow_l2")
@dataclass(frozen=True)
class SynFlowL2(ConservingCriterion):
    """theta**2 * dR/d(theta**2) with theta**2 for weights: PX with g set to one (Gebhart et al., 2021).

    So R is the sum of the path kernel h over the outputs. BatchNorm as in PX with `bn="fold"`; a constant that
    multiplies features, a gate of g in PX, is squared. `bn="batch"` and `bn="released"` set g to one in PX's readings
    of that name, to see what the images do there.
    """

    bn: str = "fold"

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True
    walks_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bn not in list(_KERNELS):
            raise InputError(f"SynFlowL2 has no bn={self.bn!r}: choose one of {', '.join(_KERNELS)}")

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`; see `SynFlow.score`."""
        scores = kernel_bound(model, sample_shape(batches, group), masks, scope, _KERNELS[self.bn]).scores()
        # Negative ones are known to the released readings alone.
        scores = scores if self.bn == "fold" else {name: score.abs_() for name, score in scores.items()}
        return conserved(scores, self.conserve)
