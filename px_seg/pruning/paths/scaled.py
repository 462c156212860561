"""Tensors that outgrow their dtype: a power of two is carried beside them.

In ResNet-50 the path-activation stream reaches 1e137 (docs/method.md, section 3). Sums and products of
non-negative numbers cancel nothing, so float32 keeps its relative precision as long as the
exponent does not overflow; multiplying by powers of two is exact.

Finding the largest value costs a pass over the tensor. So each tensor remembers how many bits its
largest value may have gained since it was last looked at, and is looked at again only when these
could reach the end of the dtype's range.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = -(2**24)

_HEADROOM = 96
"""Bits a largest value may gain before it is looked at; float32 and bfloat16 overflow at 128."""

_UNKNOWN = 10**6


class Scaled(NamedTuple):
    """The tensor `values * 2**exponent`."""

    values: Tensor
    exponent: Tensor
    """0-d, int32, on the values' device; carries no gradient."""

    drift: int = _UNKNOWN
    """Bits by which the largest value may exceed 1; no smaller than `_HEADROOM` where that is unknown."""

    @classmethod
    def of(cls, values: Tensor, exponent: Tensor | None = None) -> "Scaled":
        """Values of any size; without an exponent, as they are."""
        return cls(values, torch.zeros((), dtype=torch.int32, device=values.device) if exponent is None else exponent)

    def normalised(self, overwrite: bool = False) -> "Scaled":
        """The same tensor with its largest absolute value in [0.5, 1), unless all are 0.

        Zeros take a very small exponent, so that they never decide that of a sum. `overwrite`
        reuses these values' memory, which only whoever made them can know to be safe.
        """
        low, high = _in_memory_order(self.values.detach()).aminmax()
        largest = torch.maximum(high, -low)
        shift = torch.frexp(largest.to(_wide(largest))).exponent.clamp(-126, 126)
        exponent = torch.where(largest == 0, _NOTHING, self.exponent + shift)
        factor = _power_of_two(-shift, self.values)
        values = self.values.mul_(factor) if overwrite else self.values * factor
        return Scaled(values, exponent.to(torch.int32), 0)

    def ready(self, bits: int, overwrite: bool = False) -> "Scaled":
        """The same tensor, normalised if a step that adds `bits` could leave the dtype's range."""
        return self if self.drift + bits < _HEADROOM else self.normalised(overwrite)

    def grown(self, values: Tensor, bits: int) -> "Scaled":
        """`values` at this exponent, no more than `bits` larger than these."""
        return Scaled(values, self.exponent, self.drift + bits)

    def changed(self, values: Tensor) -> "Scaled":
        """`values` at this exponent, of any size."""
        return Scaled(values, self.exponent)

    def at(self, exponent: Tensor) -> Tensor:
        """The values at another exponent; what then lies below the dtype's range is lost."""
        return self.values * _power_of_two(self.exponent - exponent, self.values)


def align(parts: Sequence[Scaled]) -> tuple[list[Tensor], Tensor, int]:
    """The values of several tensors at one common exponent, and the drift of all together.

    The exponent is theirs where they share it, otherwise that of the largest value in any. What
    falls below the dtype's range by this (2**-126 of the largest value in float32) is smaller than
    that value by more than the dtype can tell apart in a sum. In a concatenation it is lost to a
    layer that reads nothing else; float64 has the range to keep it.
    """
    if all(part.exponent is parts[0].exponent and part.drift < _HEADROOM for part in parts):
        return [part.values for part in parts], parts[0].exponent, max(part.drift for part in parts)
    parts = [part if part.drift == 0 else part.normalised() for part in parts]
    exponent = torch.stack([part.exponent for part in parts]).amax()
    return [part.at(exponent) for part in parts], exponent, 0


def add(first: Scaled, second: Scaled) -> Scaled:
    """Their sum, broadcast as torch does."""
    (a, b), exponent, drift = align([first, second])
    # A sum is where branches meet, and mostly where the next ones begin: looking at it early
    # saves looking inside these, after which they would have to be aligned.
    return Scaled(a + b, exponent, drift + 1).ready(_HEADROOM // 2, overwrite=True)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor with its dimensions from the largest stride to the smallest.

    A reduction over all of a tensor in channels-last order would first copy it into the order of its dimensions.
    """
    return tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))


def _power_of_two(exponent: Tensor, like: Tensor) -> Tensor:
    return torch.exp2(exponent.to(_wide(like))).to(like.dtype)


def _wide(tensor: Tensor) -> torch.dtype:
    """A dtype that holds every exponent exactly: bfloat16 does not."""
    return torch.promote_types(tensor.dtype, torch.float32)
