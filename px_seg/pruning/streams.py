"""The two streams of PX as tensors that follow the rules of `px_seg.pruning.rules`."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg.pruning.rules import (
    GATES,
    OUT_OF_PLACE,
    PRODUCTS,
    RULES,
    Function,
    UnsupportedOperation,
    label,
    structural,
)
from px_seg.pruning.scaled import Scaled, add, align


class Weights:
    """What a model's parameters read as in the two streams, under masks.

    `masks` may cover any part of the parameters; the others are fully live. `squares` holds
    the leaves theta**2 of the path kernel for the parameters named in `scored`.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], scored: Iterable[str] = ()) -> None:
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._masks = masks
        parameters = dict(model.named_parameters())
        self.squares = {n: self._masked(parameters[n], n).square().requires_grad_() for n in scored}

    def name(self, weight: Tensor, function: Function) -> str:
        """The parameter's name; UnsupportedOperation when the weight is computed on the fly."""
        if id(weight) not in self._names:
            raise UnsupportedOperation(f"{label(function)} uses a weight that is not a parameter of the model")
        return self._names[id(weight)]

    def _masked(self, weight: Tensor, name: str) -> Tensor:
        if name not in self._masks:
            return weight.detach()
        return weight.detach().masked_fill(~self._masks[name].to(weight.device), 0)

    def true(self, weight: Tensor, function: Function) -> Tensor:
        """theta * mask."""
        return self._masked(weight, self.name(weight, function))

    def live(self, weight: Tensor, function: Function) -> Tensor:
        """The mask, as 0 and 1 in the weight's dtype."""
        name = self.name(weight, function)
        if name not in self._masks:
            return torch.ones_like(weight.detach())
        return self._masks[name].to(weight)

    def squared(self, weight: Tensor, function: Function) -> Tensor:
        """(theta * mask)**2, the leaf that is differentiated where the weight is scored."""
        name = self.name(weight, function)
        return self.squares[name] if name in self.squares else self._masked(weight, name).square()


_METADATA = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda")),
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.__len__, Tensor.is_contiguous, Tensor.is_floating_point),
    Tensor.requires_grad.__get__,
}


class PathTensor(torch.Tensor):
    """A stream at one point of the network; a torch function of it follows `RULES`.

    The tensor itself serves for shape, dtype and device only. The subclasses say what each kind of
    operation does to their stream.
    """

    stream: Scaled
    weights: Weights

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in GATES:
            return _in_place(func, args[0], kwargs, lambda: _gated(func, *args, **kwargs))
        if func not in RULES:
            raise UnsupportedOperation(f"{label(func)} has no meaning for paths")
        return _in_place(func, args[0], kwargs, lambda: RULES[func](func, *args, **kwargs))

    def weighted(self, func: Function, weight: Tensor, bias: Tensor | None, args: tuple, kwargs: dict) -> "PathTensor":
        """A convolution or linear layer."""
        raise NotImplementedError

    def scaled_by(self, func: Function, gain: Tensor, run: Function) -> "PathTensor":
        """A BatchNorm in eval mode: `gain` is gamma**2 / (var + eps), `run` the true operation."""
        raise NotImplementedError

    def gated(self, run: Function, gate: Function) -> "PathTensor":
        """An activation function: `run` computes it, `gate` is phi(u)/u."""
        raise NotImplementedError

    def selected(self, func: Function, args: tuple, kwargs: dict) -> "PathTensor":
        """A max-pool."""
        raise NotImplementedError

    def moved(self, func: Function, args: tuple, kwargs: dict) -> Any:
        """Averages and rearrangements of one tensor; what returns several returns a tuple."""
        raise NotImplementedError

    def joined(self, func: Function, parts: list["PathTensor"], kwargs: dict) -> "PathTensor":
        """Concatenation or stacking of several tensors of this kind."""
        raise NotImplementedError

    def added(self, other: Any, run: Function) -> "PathTensor":
        """A sum; what is not a path tensor acts as a bias and is dropped from the stream."""
        raise NotImplementedError

    def gate(self, func: Function) -> "Gate":
        """The gate that a sigmoid makes of this tensor."""
        raise NotImplementedError

    def shut(self, func: Function, gate: Any) -> "PathTensor":
        """The product with a Gate, or with a number, which is a gate that is always as open."""
        raise NotImplementedError


class Activations(PathTensor):
    """Path activations g beside the true network's activations."""

    true: Tensor

    @classmethod
    def make(cls, stream: Scaled, true: Tensor, weights: Weights) -> "Activations":
        """`stream` and `true` have the same shape, (N, ...)."""
        tensor = true.as_subclass(cls)
        tensor.stream, tensor.true, tensor.weights = stream, true, weights
        return tensor

    def _with(self, values: Tensor, true: Tensor) -> "Activations":
        return self.make(Scaled(values, self.stream.exponent), true, self.weights)

    def weighted(self, func, weight, bias, args, kwargs):
        true = func(self.true, self.weights.true(weight, func), bias, *args, **kwargs)
        values = func(self.stream.values, self.weights.live(weight, func), None, *args, **kwargs)
        return self.make(Scaled(values, self.stream.exponent).normalised(), true, self.weights)

    def scaled_by(self, func, gain, run):
        return self._with(self.stream.values, run(self.true))

    def gated(self, run, gate):
        return self._with(self.stream.values * gate(self.true).square(), run(self.true))

    def selected(self, func, args, kwargs):
        true, index = func(self.true, *args, **{**kwargs, "return_indices": True})
        lead = true.dim() - _pooled_dims(func)
        values = self.stream.values.flatten(lead).gather(lead, index.flatten(lead)).view_as(true)
        return self._with(values, true)

    def moved(self, func, args, kwargs):
        true, values = func(self.true, *args, **kwargs), func(self.stream.values, *args, **kwargs)
        if isinstance(true, tuple | list):
            return tuple(self._with(v, t) for v, t in zip(values, true, strict=True))
        return self._with(values, true)

    def joined(self, func, parts, kwargs):
        values, exponent = align([part.stream for part in parts])
        true = func([part.true for part in parts], **kwargs)
        return self.make(Scaled(func(values, **kwargs), exponent), true, self.weights)

    def added(self, other, run):
        if isinstance(other, Activations):
            return self.make(add(self.stream, other.stream), run(self.true, other.true), self.weights)
        return self._with(self.stream.values, run(self.true, other))

    def gate(self, func):
        return Gate.make(func(self.true))

    def shut(self, func, gate):
        factor = _factor(func, gate)
        return self._with(self.stream.values * factor**2, self.true * factor)


class Kernel(PathTensor):
    """The path kernel h. It follows no activations, so it needs no data."""

    @classmethod
    def make(cls, stream: Scaled, weights: Weights) -> "Kernel":
        tensor = stream.values.detach().as_subclass(cls)
        tensor.stream, tensor.weights = stream, weights
        return tensor

    def _with(self, values: Tensor) -> "Kernel":
        return self.make(Scaled(values, self.stream.exponent), self.weights)

    def weighted(self, func, weight, bias, args, kwargs):
        values = func(self.stream.values, self.weights.squared(weight, func), None, *args, **kwargs)
        return self.make(Scaled(values, self.stream.exponent).normalised(), self.weights)

    def scaled_by(self, func, gain, run):
        shape = (1, -1) + (1,) * (self.dim() - 2)
        return self.make(Scaled(self.stream.values * gain.view(shape), self.stream.exponent).normalised(), self.weights)

    def gated(self, run, gate):
        return self

    def selected(self, func, args, kwargs):
        return self._with(func(self.stream.values, *args, **kwargs))

    def moved(self, func, args, kwargs):
        values = func(self.stream.values, *args, **kwargs)
        if isinstance(values, tuple | list):
            return tuple(self._with(v) for v in values)
        return self._with(values)

    def joined(self, func, parts, kwargs):
        values, exponent = align([part.stream for part in parts])
        return self.make(Scaled(func(values, **kwargs), exponent), self.weights)

    def added(self, other, run):
        return self.make(add(self.stream, other.stream), self.weights) if isinstance(other, Kernel) else self

    def gate(self, func):
        return Gate.make(torch.ones_like(self.stream.values.detach()))

    def shut(self, func, gate):
        _factor(func, gate)
        return self


class Gate(torch.Tensor):
    """A sigmoid's output: it multiplies features and carries no paths of its own."""

    value: Tensor

    @classmethod
    def make(cls, value: Tensor) -> "Gate":
        tensor = value.as_subclass(cls)
        tensor.value = value
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            return RULES[func](func, *args, **(kwargs or {}))
        if RULES.get(func) is structural:
            return cls.make(func(args[0].value, *args[1:], **(kwargs or {})))
        raise UnsupportedOperation(f"{label(func)} of a sigmoid's output has no meaning for paths")


def _factor(func: Function, gate: Any) -> Any:
    if isinstance(gate, Gate):
        return gate.value
    if isinstance(gate, float | int):
        return gate
    raise UnsupportedOperation(f"{label(func)} of a stream and something that is neither a gate nor a number")


def _gated(func: Function, x: PathTensor, *args, **kwargs) -> PathTensor:
    kwargs.pop("inplace", None)
    run = OUT_OF_PLACE.get(func, func)
    return x.gated(lambda u: run(u, *args, **kwargs), lambda u: GATES[func](u, *args, **kwargs))


def _in_place(func: Function, x: Any, kwargs: dict[str, Any], compute: Function) -> Any:
    """The result, also written into `x` where the function works in place.

    In-place functions keep the shape, so replacing what the tensor carries is enough.
    """
    name = func.__name__
    in_place = kwargs.get("inplace", False) or (name.endswith("_") and not name.endswith("__")) or name[:3] == "__i"
    result = compute()
    if in_place and isinstance(x, PathTensor) and isinstance(result, PathTensor):
        x.__dict__.update(result.__dict__)
        return x
    return result


def _pooled_dims(func: Function) -> int:
    pools = {1: (F.max_pool1d, F.adaptive_max_pool1d), 2: (F.max_pool2d, F.adaptive_max_pool2d)}
    return next((dims for dims, functions in pools.items() if func in functions), 3)
