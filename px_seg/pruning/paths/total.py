"""A sum over paths, and its derivatives by the weights squared."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.distributed import Group, all_gather, all_reduce
from px_seg.pruning.paths.scaled import Scaled, align
from px_seg.pruning.paths.weights import Powers
from px_seg.pruning.scope import Scope, prunable
from px_seg.wide import wide_dtype


class NoPathLeft(InputError):
    """Pruned weights, weights of 0 or shut gates cut every path from the input to the output."""


class PathTotal(NamedTuple):
    """A sum over paths, R, in units of 2**exponent, and its parts by parameter name."""

    total: Tensor
    """0-d: R / 2**exponent."""

    exponent: int

    powers: dict[str, Tensor]
    """(theta * mask)**2, or another power of its size that R is linear in."""

    gradients: dict[str, Tensor]
    """dR/d(power) / 2**exponent."""

    def scores(self) -> dict[str, Tensor]:
        """theta**2 * dR/d(theta**2) by parameter name, in memory that was the gradients'.

        Where R leaves the range of its dtype, all are divided by one common power of two.
        """
        unit = self.unit()
        return {name: self.gradients[name].mul_(power).mul_(unit) for name, power in self.powers.items()}

    def unit(self) -> float:
        """2**exponent where R leaves half of its dtype's range on either side to its shares, otherwise 1."""
        magnitude = int(torch.frexp(self.total).exponent) + self.exponent
        largest = math.frexp(torch.finfo(self.total.dtype).max)[1]
        return 2.0**self.exponent if abs(magnitude) < largest // 2 else 1.0

    def checked(self) -> "PathTotal":
        """Itself; NoPathLeft where R is 0."""
        if self.total == 0:
            raise NoPathLeft(
                "no path from the input to the output is left: all pass a pruned weight, a weight of 0 or a closed "
                "gate: choose a lower sparsity (or precision float64, where values leave the range of float32)"
            )
        return self


def differentiated(parts: Sequence[Scaled], weights: Powers) -> PathTotal:
    """The sum of 0-d parts, and its gradients by the leaves of `weights`.

    Raises InputError where it is not finite, or depends on no leaf without being 0.
    """
    values, common, _ = align([part.normalised() for part in parts])
    total, exponent = torch.stack(values).sum(), int(common)
    if not total.isfinite():
        raise InputError(
            "the sum over paths is not finite: weights or images hold NaN or infinity, or the network's own "
            f"activations leave the range of {total.dtype}"
        )
    leaves = weights.leaves
    gradients: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    elif total != 0:
        raise InputError("no output of the model depends on a weight in scope")
    return PathTotal(
        total.detach(),
        exponent,
        {name: leaf.detach() for name, leaf in leaves.items()},
        {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), gradients, strict=True)},
    )


class RunningTotal:
    """The sum of the PathTotals of several batches, by the same weights.

    Wide, so that it does not depend on their order.
    """

    def __init__(self, weights: Powers) -> None:
        self._weights = weights
        like = next(iter(weights.leaves.values()))
        self._dtype = like.dtype
        wide = wide_dtype(like.device)
        self._exponent: int | None = None
        self._total = torch.zeros((), dtype=wide, device=like.device)
        self._gradients = {
            name: torch.zeros_like(leaf, dtype=wide, requires_grad=False) for name, leaf in weights.leaves.items()
        }

    def add(self, part: PathTotal) -> None:
        """Add the total of one more batch."""
        exponent = part.exponent if self._exponent is None else max(part.exponent, self._exponent)
        self._scale_to(exponent)
        factor = 2.0 ** (part.exponent - exponent)
        self._total += part.total * factor
        for name, gradient in part.gradients.items():
            self._gradients[name].add_(gradient, alpha=factor)

    def over(self, group: Group) -> PathTotal:
        """The sum over all processes, in the dtype of the weights, in memory that was this one's."""
        exponents = [exponent for exponent in all_gather(group, self._exponent) if exponent is not None]
        self._scale_to(max(exponents))
        powers = {name: leaf.detach() for name, leaf in self._weights.leaves.items()}
        return PathTotal(
            all_reduce(group, self._total).to(self._dtype),
            max(exponents),
            powers,
            {name: all_reduce(group, part).to(self._dtype) for name, part in self._gradients.items()},
        )

    def _scale_to(self, exponent: int) -> None:
        if self._exponent is not None and exponent != self._exponent:
            for part in (self._total, *self._gradients.values()):
                part.mul_(2.0 ** (self._exponent - exponent))
        self._exponent = exponent


def scored_weights(model: nn.Module, masks: Mapping[str, Tensor], scope: Scope) -> dict[str, nn.Parameter]:
    """The weights in scope. InputError for the mask of a parameter that has no paths of its own."""
    known, parameters = prunable(model), dict(model.named_parameters())
    for name in masks:
        if name in parameters and name not in known:
            raise InputError(f"the mask of {name} is not for the weight of a convolution or linear layer")
    return prunable(model, scope)
