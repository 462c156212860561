"""What of a pruned network lies on a path from the input to an output: weights, channels, and how many paths."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from px_seg.pruning.granularity import output_sums
from px_seg.pruning.paths.bound import kernel_bound
from px_seg.pruning.paths.streams import Kernel
from px_seg.pruning.paths.total import NoPathLeft


class EffectivePaths(NamedTuple):
    """What is of use under masks, whatever the weights (Vysogorets and Kempe, JMLR 2023, arXiv 2107.02306)."""

    weights: dict[str, int]
    """Kept weights on a path, by the name of their tensor."""

    channels: dict[str, int]
    """Output channels on a path, by the name of the weight that makes them: effective nodes."""

    widths: dict[str, int]
    """All output channels, by the same names."""

    log10_paths: float
    """The decimal logarithm of the number of paths from an element of the input to one of an output; -inf for none.

    Elements that an average or an interpolation mixes count by their weight in it, so that an average is one path.
    """

    @property
    def channel_share(self) -> float:
        """Of all output channels the share that is on a path, in [0, 1]."""
        return sum(self.channels.values()) / sum(self.widths.values())


class _Count(Kernel):
    """Paths as such: a BatchNorm passes them, unless its scale is 0."""

    def normed(self, norm):
        passes = norm.gain(self.dtype).ne(0).to(self.dtype)
        return self._with(self.stream.values * passes.view(1, -1, *[1] * (self.dim() - 2)))


def effective_paths(model: nn.Module, masks: Mapping[str, Tensor], shape: Sequence[int]) -> EffectivePaths:
    """See `EffectivePaths`, for the tensors in `masks`; `shape` is that of one sample, (C, H, W).

    In float64 on a copy of the model. Raises UnsupportedOperation for a network in which paths are not defined, and
    InputError for masks that do not fit.
    """
    widths = {name: len(sums) for name, sums in output_sums(model, masks).items()}
    nothing = dict.fromkeys(masks, 0)
    try:
        # Raised to the power 0 every live weight reads 1, so R counts paths.
        counted = kernel_bound(copy.deepcopy(model).double(), shape, masks, kernel=_Count, exponent=0)
    except NoPathLeft:
        return EffectivePaths(nothing, dict(nothing), widths, -math.inf)
    used = {name: mask.bool() & (counted.gradients[name] != 0).to(mask.device) for name, mask in masks.items()}
    return EffectivePaths(
        {name: int(part.count_nonzero()) for name, part in used.items()},
        {name: int(sums.count_nonzero()) for name, sums in output_sums(model, used).items()},
        widths,
        math.log10(float(counted.total)) + counted.exponent * math.log10(2),
    )
