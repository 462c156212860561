"""What a torch function does to a path, in the terms that rules use and streams implement."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from px_seg.errors import InputError

Function = Callable[..., Any]


class UnsupportedOperation(InputError):
    """The model contains an operation for which paths are not defined."""


def label(func: Function) -> str:
    """The function's name for an error message."""
    name = getattr(func, "__name__", str(func))
    owner = getattr(func, "__self__", None)
    return f"a tensor's {owner.__name__}" if name == "__get__" and owner is not None else f"torch's {name}"


def carries_paths(x: Any) -> bool:
    """Whether `x` carries a stream, and is not a bias, a number or a gate."""
    return isinstance(x, PathOperations)


class BatchNorm(NamedTuple):
    """A normalisation by running statistics: y = (u - mean) / sqrt(var + eps) * weight + bias."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, u: Tensor) -> Tensor:
        """Its output on `u`, (N, C, ...)."""
        mean, var, weight, bias = (_beside(u, part) for part in self[:4])
        return F.batch_norm(u, mean, var, weight, bias, False, 0.0, self.eps)

    def by_batch(self, u: Tensor) -> Tensor:
        """Its output on `u`, (N, C, ...), by the statistics of `u`; those of a single element are its own and 0."""
        weight, bias = (_beside(u, part) for part in self[2:4])
        return torch.batch_norm(u, weight, bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled)

    def gain(self, dtype: torch.dtype) -> Tensor:
        """weight**2 / (var + eps), by which the folded norm multiplies the path kernel."""
        gain = (self.var.to(dtype) + self.eps).reciprocal()
        return gain if self.weight is None else gain * self.weight.detach().to(dtype).square()

    def shift(self, dtype: torch.dtype) -> Tensor:
        """What the norm makes of 0."""
        return self(torch.zeros_like(self.mean, dtype=dtype)[None])[0]


def _beside(u: Tensor, parameter: Tensor | None) -> Tensor | None:
    """The parameter as a constant of the dtype that a norm of `u` wants: that of `u`, float32 beside bfloat16."""
    return None if parameter is None else parameter.detach().to(torch.promote_types(u.dtype, torch.float32))


class PathOperations:
    """The kinds of operation that a stream passes, one method each.

    Methods that take a function `run` are given the model's own operation on true activations.
    """

    def weighted(self, func: Function, weight: Tensor, bias: Tensor | None, args: tuple, kwargs: dict) -> Any:
        """A convolution or linear layer."""
        raise NotImplementedError

    def normed(self, norm: BatchNorm) -> Any:
        """A normalisation by running statistics."""
        raise NotImplementedError

    def rectified(self, run: Function) -> Any:
        """A ReLU."""
        raise NotImplementedError

    def gated(self, run: Function, gate: Function) -> Any:
        """Another activation function; `gate` computes phi(u)/u."""
        raise NotImplementedError

    def selected(self, func: Function, args: tuple, kwargs: dict) -> Any:
        """A max-pool."""
        raise NotImplementedError

    def moved(self, func: Function, args: tuple, kwargs: dict) -> Any:
        """Averages and rearrangements of one tensor; what returns several returns a tuple."""
        raise NotImplementedError

    def joined(self, func: Function, parts: list[Any], kwargs: dict) -> Any:
        """Concatenation or stacking of several tensors of this kind."""
        raise NotImplementedError

    def added(self, other: Any, run: Function) -> Any:
        """A sum; what is not a path tensor acts as a bias and is dropped from the stream."""
        raise NotImplementedError

    def as_gate(self, run: Function) -> Any:
        """The gate that a sigmoid makes of this tensor."""
        raise NotImplementedError

    def shut(self, gate: Any, run: Function) -> Any:
        """The product with a Gate, or with a number or constant tensor, which is a gate that is always equally open."""
        raise NotImplementedError
