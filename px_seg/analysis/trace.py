"""The trace of the Neural Tangent Kernel: PX's bound on it, and for small networks the trace itself.

The kernel is that of the live convolution and linear weights: tr NTK = sum over samples x,
outputs k and weights j of (df_k(x) / d theta_j)**2.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from px_seg.pruning.batches import Batches
from px_seg.pruning.masks import check_fit
from px_seg.pruning.modes import evaluating
from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.bound import FOLD, Streams, path_bound
from px_seg.pruning.paths.scaled import Scaled, add
from px_seg.pruning.paths.streams import Activations, Kernel
from px_seg.pruning.scope import prunable


def ntk_trace_bound(
    model: nn.Module, batches: Batches, masks: Mapping[str, Tensor] | None = None, biases: bool = False
) -> float:
    """sum_x sum_k g_k(x) sum_j dh_k / d(theta_j**2) >= tr NTK (docs/method.md, section 1).

    j runs over the live convolution and linear weights of the whole model, x over the samples
    of all batches, k over all outputs.

    Like PX, it reads the network without biases and BatchNorm shifts, and bounds the trace of
    that network under the gates of the true one. With `biases` they are paths as well, from an
    input that is always 1, and the bound holds for the network as it is. It is a bound where
    activations are piecewise linear through 0 (ReLU, leaky ReLU), nothing is multiplied
    by a gate that depends on the data, no weight is used twice, and max-pools choose among elements that the same
    weights feed, as they do over space in a convolutional network.

    Raises OverflowError where the bound exceeds the range of float64, and what
    `px_seg.pruning.paths.bound.path_bound` raises.
    """
    bound = path_bound(model, batches, masks, streams=_SHIFTED if biases else FOLD)
    masks = masks or {}
    total = sum(
        float((g if n not in masks else g.where(masks[n].to(g.device).bool(), 0)).sum(dtype=torch.float64))
        for n, g in bound.gradients.items()
    )
    return math.ldexp(total, bound.exponent)


def ntk_trace(model: nn.Module, batches: Batches, masks: Mapping[str, Tensor] | None = None) -> float:
    """tr NTK of the network in eval mode with its masks applied, exactly, by torch.func.

    For small networks: it holds the Jacobian of one sample's outputs with respect to all weights. In the
    weights' dtype, summed in float64. Raises InputError when the masks do not fit.
    """
    masks = masks or {}
    check_fit(masks, dict(model.named_parameters()))
    live = {n: masks[n].to(w) if n in masks else torch.ones_like(w) for n, w in prunable(model).items()}
    weights = {name: weight.detach() * live[name] for name, weight in prunable(model).items()}

    def outputs(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.cat([out.flatten() for out in leaves(functional_call(model, weights, (sample[None],)))])

    like = next(iter(weights.values()))
    total = 0.0
    with evaluating(model):
        for batch in batches:
            for sample in (batch if isinstance(batch, Tensor) else batch[0]).to(like):
                jacobian = jacrev(outputs)(weights, sample)
                total += sum(
                    float((j.detach() * live[n]).square().sum(dtype=torch.float64)) for n, j in jacobian.items()
                )
    return total


def _begun(values: Tensor, spatial: int, like: Tensor) -> Scaled:
    """Paths that begin at a layer's outputs: `values` has one element per channel."""
    return Scaled.of(values.detach().to(like.dtype).view(-1, *[1] * spatial))


class _ShiftedActivations(Activations):
    """Every bias and shift begins paths, at an input of 1."""

    def _begin(self, values: Tensor, spatial: int) -> Activations:
        return self._with(add(self.stream, _begun(torch.ones_like(values), spatial, self)), self.true)

    def weighted(self, func, weight, bias, args, kwargs):
        out = super().weighted(func, weight, bias, args, kwargs)
        return out if bias is None else out._begin(bias, weight.dim() - 2)

    def normed(self, norm):
        return super().normed(norm)._begin(norm.mean, self.dim() - 2)

    def added(self, other, run):
        out = super().added(other, run)
        if isinstance(other, Activations):
            return out
        ones = torch.ones((), dtype=self.dtype, device=self.device).expand(out.shape)
        return self._with(add(out.stream, Scaled.of(ones)), out.true)


class _ShiftedKernel(Kernel):
    """The square of every bias and shift is the value of a path that begins there."""

    def _begin(self, values: Tensor, spatial: int) -> Kernel:
        begun = _begun(values, spatial, self)
        return self.of(add(self.stream, begun.changed(begun.values.square())), self.weights)

    def weighted(self, func, weight, bias, args, kwargs):
        out = super().weighted(func, weight, bias, args, kwargs)
        return out if bias is None else out._begin(bias, weight.dim() - 2)

    def normed(self, norm):
        return super().normed(norm)._begin(norm.shift(self.dtype), self.dim() - 2)

    def added(self, other, run):
        out = super().added(other, run)
        if isinstance(other, Kernel):
            return out
        constant = torch.as_tensor(other, dtype=self.dtype, device=self.device).detach()
        return self.of(add(out.stream, Scaled.of(constant.square().expand(out.shape))), self.weights)


_SHIFTED = Streams(_ShiftedActivations, _ShiftedKernel)
