"""Units of weights that are kept or pruned together: single weights, kernels and filters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.pattern import TRANSPOSED, owners
from px_seg.pruning.rankings import Ranking, of_units
from px_seg.pruning.scope import Scope, prunable

GRANULARITIES = {"weight": None, "kernel": 2, "filter": 1}
"""By name, the dimensions of a weight (out, in / groups, ...) that tell its units apart; None for all of them."""


def check_granularity(name: str) -> None:
    """Raise InputError for a granularity that does not exist."""
    if name not in list(GRANULARITIES):
        raise InputError(f"there is no granularity {name!r}: choose one of {', '.join(GRANULARITIES)}")


def largest_unit(shapes: Sequence[Sequence[int]], name: str) -> int:
    """The most weights that a unit of tensors of these shapes can have, whichever of two dimensions is the output."""
    sizes = {
        "weight": lambda shape: 1,
        "kernel": lambda shape: math.prod(shape[2:]),
        "filter": lambda shape: math.prod(shape) // max(1, min(shape[:2])),
    }
    return max(map(sizes[name], shapes), default=1)


def by_units(name: str, ranking: str, model: nn.Module, scope: Scope = None) -> Ranking:
    """The ranking of that name, of units of weights in place of single ones.

    A unit's score is the sum of its weights' scores (Mao et al., CVPR workshops 2017, for magnitudes). The highest
    units are kept as long as all of their weights are no more than asked for: at most one unit too few.
    """
    check_granularity(name)
    dims, modules = GRANULARITIES[name], owners(model)
    assert dims is not None
    layers = [_Units.of(modules[id(weight)], dims) for weight in prunable(model, scope).values()]

    def keep(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
        sums = [units.sums(score) for units, score in zip(layers, scores, strict=True)]
        alive = [units.sums(mask) > 0 for units, mask in zip(layers, live, strict=True)]
        kept = of_units(ranking, sums, alive, count, [mask.shape for mask in live])
        if count and not any(bool(part.any()) for part in kept):
            raise InputError(f"{count} weights are less than one {name}: ask for a lower sparsity")
        return [units.spread(part, mask) for units, part, mask in zip(layers, kept, live, strict=True)]

    return keep


@dataclass(frozen=True)
class _Units:
    """How the weights of one layer belong together."""

    dims: int
    """Leading dimensions that tell them apart, once those of outputs come first."""
    groups: int
    """Of a transposed convolution, whose outputs are its second dimension; 0 for other layers."""

    @classmethod
    def of(cls, layer: nn.Module, dims: int) -> "_Units":
        return cls(dims, int(layer.groups) if isinstance(layer, TRANSPOSED) else 0)

    def sums(self, values: Tensor) -> Tensor:
        """(out,) or (out, in / groups) of values that are shaped as the weight."""
        values = self._turned(values)
        return values.flatten(self.dims).sum(-1, dtype=torch.float64) if values.dim() > self.dims else values.double()

    def spread(self, kept: Tensor, live: Tensor) -> Tensor:
        """The live places in the units that are kept, shaped as the weight."""
        turned = self._turned(live)
        return self._turned(kept.reshape(*kept.shape, *[1] * (turned.dim() - self.dims)) & turned)

    def _turned(self, values: Tensor) -> Tensor:
        """With its two first dimensions the other way round where outputs are not first, or back again."""
        if not self.groups:
            return values
        return torch.unflatten(values, 0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
