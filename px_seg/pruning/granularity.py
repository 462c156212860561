"""Units of weights that are kept or pruned together: single weights, kernels and filters."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """The most weights that a unit of tensors of these shapes may have, where their layers are not known."""
    sizes: dict[str, Callable[[Sequence[int]], int]] = {
        "weight": lambda shape: 1,
        "kernel": lambda shape: math.prod(shape[2:]),
        # Which of two dimensions is the output's is not known, but one of a single channel is no filter's.
        "filter": lambda shape: math.prod(shape) // max(1, shape[0] if shape[1] == 1 else min(shape[:2])),
    }
    return max((sizes[name](shape) for shape in shapes if len(shape) > 1), default=1)


class ByUnits(NamedTuple):
    """A ranking of units of weights in place of single ones."""

    keep: Ranking
    largest: int
    """Weights of the largest unit."""


def by_units(name: str, ranking: str, model: nn.Module, scope: Scope = None) -> ByUnits:
    """The ranking of that name, of the units of that granularity.

    A unit's score is the sum of its weights' scores (Mao et al., CVPR workshops 2017, for magnitudes). Where units of
    all layers compete, it is divided by their number: what keeping the unit costs. The highest are kept as long as all
    of their weights are no more than asked for, which is less than a unit too few. `largest` weights must be asked for
    at least.
    """
    layers = _units(name, model, scope)

    def keep(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
        sums = [units.sums(score) for units, score in zip(layers.values(), scores, strict=True)]
        alive = [units.sums(mask) > 0 for units, mask in zip(layers.values(), live, strict=True)]
        kept = of_units(ranking, sums, alive, count, [mask.shape for mask in live])
        return [units.spread(part, mask) for units, part, mask in zip(layers.values(), kept, live, strict=True)]

    weights = prunable(model, scope)
    return ByUnits(keep, max(weights[n].numel() // units.sums(weights[n]).numel() for n, units in layers.items()))


def check_whole(masks: Mapping[str, Tensor], name: str, model: nn.Module) -> None:
    """Raise InputError naming the first layer whose units are not kept or pruned whole."""
    if GRANULARITIES[name] is None:
        return
    for layer, units in _units(name, model).items():
        if layer in masks:
            live, size = units.sums(masks[layer]), masks[layer].numel()
            if not bool(((live == 0) | (live == size // live.numel())).all()):
                raise InputError(f"not all {name}s of {layer} are kept or pruned whole")


def output_sums(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(out,) sums over each output channel of values that are shaped as weights of the model, by parameter name."""
    layers = _units("filter", model)
    return {name: layers[name].sums(part) for name, part in values.items()}


def _units(name: str, model: nn.Module, scope: Scope = None) -> dict[str, "_Units"]:
    check_granularity(name)
    dims, modules = GRANULARITIES[name], owners(model)
    assert dims is not None
    return {weight: _Units.of(modules[id(value)], dims) for weight, value in prunable(model, scope).items()}


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
        values = self._turned(values.detach())
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
