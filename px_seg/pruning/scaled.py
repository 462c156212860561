"""Non-negative tensors that outgrow their dtype: a power of two is carried beside them.

In ResNet-50 the path-activation stream reaches 1e137 (docs/method.md, section 3). Sums and products of
non-negative numbers cancel nothing, so float32 keeps its relative precision as long as the
exponent does not overflow; multiplying by powers of two is exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = -(2**24)


class Scaled(NamedTuple):
    """The tensor `values * 2**exponent`."""

    values: Tensor
    exponent: Tensor
    """0-d, int32, on the values' device; carries no gradient."""

    @classmethod
    def of(cls, values: Tensor) -> "Scaled":
        return cls(values, torch.zeros((), dtype=torch.int32, device=values.device))

    def normalised(self) -> "Scaled":
        """The same tensor with its largest value in [0.5, 1), unless all are 0.

        Zeros take the smallest exponent, so that they never decide that of a sum.
        """
        largest = self.values.detach().amax()
        shift = torch.frexp(largest).exponent.clamp(min=-126)
        exponent = torch.where(largest == 0, _NOTHING, self.exponent + shift)
        return Scaled(self.values * torch.exp2(-shift.to(self.values.dtype)), exponent.to(torch.int32))


def align(parts: Sequence[Scaled]) -> tuple[list[Tensor], Tensor]:
    """The values of several tensors at one common exponent, that of the largest value in any.

    What falls below the dtype's range by this is smaller than that value by more than the
    dtype can tell apart.
    """
    parts = [part.normalised() for part in parts]
    exponent = torch.stack([part.exponent for part in parts]).amax()
    return [p.values * torch.exp2((p.exponent - exponent).to(p.values.dtype)) for p in parts], exponent


def add(first: Scaled, second: Scaled) -> Scaled:
    """Their sum, broadcast as torch does, normalised."""
    (a, b), exponent = align([first, second])
    return Scaled(a + b, exponent).normalised()
