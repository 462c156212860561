"""What of a pruned network lies on a path from the input to an output: weights, channels, and how many paths."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg.pruning.granularity import output_sums
from px_seg.pruning.paths.bound import kernel_bound
from px_seg.pruning.paths.streams import Kernel
from px_seg.pruning.paths.total import NoPathLeft


class EffectivePaths(NamedTuple):
    """What is of use under masks, whatever the weights (Vysogorets and Kempe, JMLR 2023, arXiv 2107.02306)."""

    weights: dict[str, int]
    """Kept weights on a path, by the name of their tensor; of a gate, which carries none, all kept ones."""

    channels: dict[str, int]
    """Output channels on a path, by the name of the weight that makes them: effective nodes. Gates have none."""

    widths: dict[str, int]
    """All output channels, by the same names."""

    log10_paths: float
    """The decimal logarithm of the number of paths from an element of the input to one of an output; -inf for none.

    Of the whole network, with all weights that the masks do not cover. Elements that an average or an interpolation
    mixes count by their weight in it, so that an average is one path; a max-pool, which may choose any of its elements,
    counts as an average.
    """

    @property
    def channel_share(self) -> float:
        """Of all output channels the share that is on a path, in [0, 1]."""
        return sum(self.channels.values()) / sum(self.widths.values())


class _Count(Kernel):
    """Paths as such: a BatchNorm passes them, whatever its scale, which training can change where it is 0."""

    def normed(self, norm):
        return self.of(self.stream, self.weights)

    def selected(self, func, args, kwargs):
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        if func in _ADAPTIVE:
            return self._with(_ADAPTIVE[func](self.stream.values, args[0] if args else kwargs["output_size"]))
        given = dict(zip(names, args, strict=False)) | kwargs
        spread = torch.as_tensor(given.pop("dilation", 1)).ne(1).any()
        if func not in _AVERAGES or bool(spread):
            return super().selected(func, args, kwargs)
        given.pop("return_indices", None)
        return self._with(_AVERAGES[func](self.stream.values, **given))


_AVERAGES = {F.max_pool1d: F.avg_pool1d, F.max_pool2d: F.avg_pool2d, F.max_pool3d: F.avg_pool3d}
_ADAPTIVE = {
    F.adaptive_max_pool1d: F.adaptive_avg_pool1d,
    F.adaptive_max_pool2d: F.adaptive_avg_pool2d,
    F.adaptive_max_pool3d: F.adaptive_avg_pool3d,
}


def effective_paths(model: nn.Module, masks: Mapping[str, Tensor], shape: Sequence[int]) -> EffectivePaths:
    """See `EffectivePaths`, for the tensors in `masks`; `shape` is that of one sample, (C, H, W).

    In float64 on a copy of the model. Raises UnsupportedOperation for a network in which paths are not defined, and
    InputError for masks that do not fit.
    """
    network = copy.deepcopy(model).double()
    used = {name: mask.bool() for name, mask in masks.items()}
    log10_paths = -math.inf
    try:
        # Raised to the power 0 every live weight reads 1, so R counts paths.
        counted = kernel_bound(network, shape, masks, kernel=_Count, exponent=0)
    except NoPathLeft:
        used = {name: torch.zeros_like(mask) for name, mask in used.items()}
    else:
        used = {name: mask & (counted.gradients[name] != 0).to(mask.device) for name, mask in used.items()}
        log10_paths = math.log10(float(counted.total)) + counted.exponent * math.log10(2)
    gates: set[str] = set()
    if math.isfinite(log10_paths) and not all(bool(mask.any()) for mask in used.values()):
        # What passes no path in the dense network either multiplies features: it is not cut off.
        dense = kernel_bound(network, shape, kernel=_Count, exponent=0).gradients
        gates = {name for name in masks if not bool(dense[name].any())}
    sums = {name: own for name, own in output_sums(model, used).items() if name not in gates}
    return EffectivePaths(
        {name: int((masks[name] if name in gates else part).count_nonzero()) for name, part in used.items()},
        {name: int(own.count_nonzero()) for name, own in sums.items()},
        {name: len(own) for name, own in sums.items()},
        log10_paths,
    )
