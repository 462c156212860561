"""The streams as the authors' released program reads them: BatchNorm by the statistics of the stream itself.

Each stream passes a BatchNorm as in training, with gamma, beta and the mean and variance of the
values that reach it, and a max-pool by its own largest elements. Values can then be negative, and
R is no longer linear in theta**2: scores are absolute values of theta**2 * dR/d(theta**2).
"""

import torch

from px_seg.pruning.paths.operations import BatchNorm
from px_seg.pruning.paths.scaled import Scaled
from px_seg.pruning.paths.streams import Activations, Kernel


class BatchActivations(Activations):
    """Path activations of the released program."""

    def normed(self, norm):
        return self._with(_by_batch(self.stream, norm), norm(self.true))

    def selected(self, func, args, kwargs):
        values = func(self.stream.values, *args, **kwargs)
        return self._with(self.stream.changed(values), func(self.true, *args, **kwargs))


class BatchKernel(Kernel):
    """The path kernel of the released program."""

    def normed(self, norm):
        return self.of(_by_batch(self.stream, norm), self.weights)


def _by_batch(stream: Scaled, norm: BatchNorm) -> Scaled:
    return Scaled.of(norm.by_batch(stream.at(torch.zeros_like(stream.exponent))))
