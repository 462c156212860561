"""The streams as the authors' released program reads them: BatchNorm by the statistics of the stream itself.

Each stream passes a BatchNorm as in training, with gamma, beta and the mean and variance of the
values that reach it, and a max-pool by its own largest elements. Values can then be negative, and
R is no longer linear in theta**2: scores are absolute values of theta**2 * dR/d(theta**2).

The program (github.com/iurada/px-ntk-pruning, commit ed6c40e) finds BatchNorms by their names: those with "bn" in it
keep gamma and beta. Parameters of any other norm, and biases, are treated as weights: 1 in the activations, squared in
the kernel. Parameters with "fc" in their name stay as they are in both, and such a weight scores
theta**2 * |dR/dtheta|. `BY_BATCH` is its reading of a network without biases whose norms all have "bn" in their name;
`BY_NAME` reads any network by these names.
"""

from typing import Any

import torch
from torch import Tensor

from px_seg.pruning.paths.bound import Streams
from px_seg.pruning.paths.operations import BatchNorm, Function
from px_seg.pruning.paths.scaled import Scaled, add
from px_seg.pruning.paths.streams import Activations, Kernel
from px_seg.pruning.paths.weights import Weights


class BatchActivations(Activations):
    """Path activations of the released program, where all norms are such to it."""

    def normed(self, norm):
        return self._with(_by_batch(self.stream, norm), norm(self.true))

    def selected(self, func, args, kwargs):
        values = func(self.stream.values, *args, **kwargs)
        return self._with(self.stream.changed(values), func(self.true, *args, **kwargs))


class BatchKernel(Kernel):
    """The path kernel of the released program, where all norms are such to it."""

    def normed(self, norm):
        return self.of(_by_batch(self.stream, norm), self.weights)


class NamedActivations(BatchActivations):
    """Path activations of the released program, by names."""

    def weighted(self, func, weight, bias, args, kwargs):
        if _kept("fc", weight, self.weights):
            true_weight, _ = self.weights.read(weight, func)
            stream, true = self.stream.normalised(), func(self.true, true_weight, bias, *args, **kwargs)
            out = self._with(stream.changed(func(stream.values, true_weight, None, *args, **kwargs)), true)
        else:
            out = super().weighted(func, weight, bias, args, kwargs)
        if bias is None:
            return out
        begun = bias if _kept("fc", bias, self.weights) else torch.ones_like(bias)
        return out._with(_begun(out, begun, weight.dim() - 2), out.true)

    def normed(self, norm):
        return self._with(_by_batch(self.stream, _read(norm, self.weights, torch.ones_like)), norm(self.true))


class NamedKernel(BatchKernel):
    """The path kernel of the released program, by names."""

    def weighted(self, func, weight, bias, args, kwargs):
        if _kept("fc", weight, self.weights):
            stream = self.stream.normalised()
            values = func(stream.values, self._as_it_is(weight, func), None, *args, **kwargs)
            out = self.of(stream.changed(values), self.weights)
        else:
            out = super().weighted(func, weight, bias, args, kwargs)
        if bias is None:
            return out
        begun = bias if _kept("fc", bias, self.weights) else bias.square()
        return self.of(_begun(out, begun, weight.dim() - 2), self.weights)

    def normed(self, norm):
        return super().normed(_read(norm, self.weights, torch.square))

    def _as_it_is(self, weight: Tensor, func: Function) -> Tensor:
        """theta * mask, whose gradient goes to the leaf of its square: the program multiplies it by theta**2 too."""
        square = self.weights.read(weight, func)
        return self.weights.true(weight, func) + (square - square.detach())


BY_BATCH = Streams(BatchActivations, BatchKernel)
BY_NAME = Streams(NamedActivations, NamedKernel)


def _by_batch(stream: Scaled, norm: BatchNorm) -> Scaled:
    return Scaled.of(norm.by_batch(stream.at(torch.zeros_like(stream.exponent))))


def _kept(part: str, parameter: Tensor, weights: Weights) -> bool:
    """Whether the program leaves a parameter as it is, because this is part of its name."""
    return part in weights.names.get(id(parameter), "")


def _read(norm: BatchNorm, weights: Weights, power: Any) -> BatchNorm:
    """The norm with gamma and beta as the program reads them: `power` of those that it takes for weights."""

    def read(parameter: Tensor | None) -> Tensor | None:
        if parameter is None or _kept("bn", parameter, weights) or _kept("fc", parameter, weights):
            return parameter
        return power(parameter.detach())

    return norm._replace(weight=read(norm.weight), bias=read(norm.bias))


def _begun(out: Any, values: Tensor, spatial: int) -> Scaled:
    """The stream of `out` with the bias that it is given here: one element per channel."""
    begun = values.detach().to(out.stream.values.dtype).view(-1, *[1] * spatial)
    return add(out.stream, Scaled.of(begun))
