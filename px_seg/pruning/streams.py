"""The two streams of PX as tensors that follow the rules of `px_seg.pruning.rules`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from px_seg.pruning.readings import Squares, TrueAndLive, Weights
from px_seg.pruning.rules import GATES, RULES, BatchNorm, Function, UnsupportedOperation, label, product, structural
from px_seg.pruning.scaled import Scaled, add, align

_METADATA = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda")),
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.__len__, Tensor.is_contiguous, Tensor.is_floating_point),
    *(Tensor.requires_grad.__get__, Tensor.is_nested.__get__),
}


_SHAPED_AS = {Tensor.expand_as: Tensor.expand, Tensor.view_as: Tensor.view, Tensor.reshape_as: Tensor.reshape}


class _Shell(torch.Tensor):
    """Shape, dtype and device of a tensor without its elements.

    Torch functions of it are interpreted. What reaches the elements by another way, a scripted
    function for one, is refused: its result would have lost its paths unseen.
    """

    @classmethod
    def like(cls, tensor: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, tensor.shape, dtype=tensor.dtype, device=tensor.device)

    def __repr__(self, **_: Any) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: Any = None) -> Any:
        raise UnsupportedOperation(f"{func} is called by code that hides it from torch functions, such as a script")


class PathTensor(_Shell):
    """A stream at one point of the network; a torch function of it follows `RULES`.

    The tensor itself serves for shape, dtype and device only. The subclasses say what each kind of
    operation does to their stream. Methods that take a function `run` are given the model's own
    operation on true activations.
    """

    carries_paths = True
    stream: Scaled
    weights: Weights

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        if "axis" in kwargs:
            kwargs["dim"] = kwargs.pop("axis")
        if func in _SHAPED_AS:
            func, args = _SHAPED_AS[func], (args[0], args[1].shape)
            if not isinstance(args[0], PathTensor):
                return func(*args)
        device = next((arg.device.type for arg in args if isinstance(arg, Tensor)), "cpu")
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return cls.__torch_function__(func, types, args, kwargs)
        if func not in RULES and func not in GATES:
            raise UnsupportedOperation(f"{label(func)} has no meaning for paths")
        if kwargs.pop("out", None) is not None:
            raise UnsupportedOperation(f"{label(func)} writes to a tensor given as `out`, which is not followed")
        target = args[0] if _in_place(func, kwargs) else None
        if target is not None:
            _check_in_place(func, target)
        try:
            result = _gated(func, *args, **kwargs) if func in GATES else RULES[func](func, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedOperation(f"{label(func)} is called in a way its rule does not know: {error}") from error
        if target is None:
            return result
        # An in-place function keeps the shape: it is enough to replace what the tensor carries.
        if result is not target:
            views = getattr(target, "views", None)
            target.__class__, target.__dict__ = result.__class__, result.__dict__
            target.views = views
        return target

    def weighted(self, func: Function, weight: Tensor, bias: Tensor | None, args: tuple, kwargs: dict) -> PathTensor:
        """A convolution or linear layer."""
        raise NotImplementedError

    def normed(self, norm: BatchNorm) -> PathTensor:
        """A normalisation by running statistics."""
        raise NotImplementedError

    def rectified(self, run: Function) -> PathTensor:
        """A ReLU."""
        raise NotImplementedError

    def gated(self, run: Function, gate: Function) -> PathTensor:
        """Another activation function; `gate` computes phi(u)/u."""
        raise NotImplementedError

    def selected(self, func: Function, args: tuple, kwargs: dict) -> PathTensor:
        """A max-pool."""
        raise NotImplementedError

    def moved(self, func: Function, args: tuple, kwargs: dict) -> Any:
        """Averages and rearrangements of one tensor; what returns several returns a tuple."""
        raise NotImplementedError

    def joined(self, func: Function, parts: list[PathTensor], kwargs: dict) -> PathTensor:
        """Concatenation or stacking of several tensors of this kind."""
        raise NotImplementedError

    def added(self, other: Any, run: Function) -> PathTensor:
        """A sum; what is not a path tensor acts as a bias and is dropped from the stream."""
        raise NotImplementedError

    def as_gate(self, run: Function) -> Gate:
        """The gate that a sigmoid makes of this tensor."""
        raise NotImplementedError

    def shut(self, gate: Any, run: Function) -> PathTensor:
        """The product with a Gate, or with a number or constant tensor, which is a gate that is always as open."""
        raise NotImplementedError


class Activations(PathTensor):
    """Path activations g beside the true network's activations, and of their dtype."""

    true: Tensor
    weights: TrueAndLive
    views: list[weakref.ref[Activations]]
    """All tensors whose true activations share memory with this one's, itself among them."""
    late: _ByOnes | None
    """A depthwise convolution by ones that the values still have to pass; see `weighted`."""
    _stream: Scaled

    @classmethod
    def of(cls, stream: Scaled, true: Tensor, weights: TrueAndLive) -> Activations:
        """`stream` and `true` have the same shape, (N, ...), and memory of their own."""
        tensor = cls.like(true)
        tensor._stream, tensor.true, tensor.weights, tensor.late = stream, true, weights, None
        tensor.views = [weakref.ref(tensor)]
        return tensor

    @property
    def stream(self) -> Scaled:
        if self.late is not None:
            self._stream, self.late = self._stream.grown(self.late(self._stream.values), 0), None
        return self._stream

    def _with(self, stream: Scaled, true: Tensor) -> Activations:
        return self.of(stream, true, self.weights)

    def _part(self, values: Tensor, true: Tensor) -> Activations:
        """A tensor of some of this one's elements, which may share its memory."""
        part = self._with(self.stream.changed(values), true)
        if true.untyped_storage().data_ptr() == self.true.untyped_storage().data_ptr():
            part.views = self.views
            part.views.append(weakref.ref(part))
        return part

    def weighted(self, func, weight, bias, args, kwargs):
        if (fixed := self.weights.filter(weight, func)) is not None:
            return self.moved(func, (fixed, *_nothing(bias, func), *args), kwargs)
        true, live = self.weights.read(weight, func)
        true = func(self.true, true, _cast(bias, self.true), *args, **kwargs)
        bits = _fan_in(func, weight).bit_length()
        # Kept, so that a shortcut around this layer continues with the same exponent.
        self._stream = self._stream.ready(bits)
        if live is not None:
            values = func(self.stream.values, live, None, *args, **kwargs)
            return self._with(self._stream.grown(values, bits), true)
        if func not in _CONVOLUTIONS:
            values = func(self.stream.values, torch.ones_like(weight, dtype=self.dtype), None, *args, **kwargs)
            return self._with(self._stream.grown(values, bits), true)
        # All weights read 1: the input channels of a group count alike, so their sum will do,
        # and its output channels are one and the same. A depthwise convolution waits, because
        # after it mostly comes a layer that sums over its channels.
        spatial = weight.dim() - 2
        channel = self.dim() - spatial - 1
        groups = self.shape[channel] // weight.shape[1]
        ones = _ByOnes(func, weight.shape[2:], channel, args, kwargs)
        if weight.shape[1] == 1 and weight.shape[0] == groups > 1 and self.late is None:
            waiting = self._with(self._stream.grown(self._stream.values, bits), true)
            waiting.late = ones
            return waiting
        late = self.late if groups == 1 and self.late is not None and self.late.channel == channel else None
        values = self.stream.values if late is None else self._stream.values
        if weight.shape[1] > 1:
            values = values.unflatten(channel, (groups, -1)).sum(channel + 1)
        if late is not None:
            values = late(values)
        values = ones(values) if spatial else values
        copies = [-1] * (values.dim() + 1)
        copies[channel + 1] = weight.shape[0] // groups
        values = values.unsqueeze(channel + 1).expand(copies).flatten(channel, channel + 1)
        return self._with(self._stream.grown(values, bits), true)

    def normed(self, norm):
        return self._with(self.stream, norm(self.true))

    def rectified(self, run):
        # The gate acts on the stream as it does on a gradient, for which torch has one fused step.
        values, gated = self.stream.values, torch.empty_like(self.true)
        torch.ops.aten.threshold_backward.grad_input(values, self.true, 0, grad_input=gated)
        return self._with(self.stream.grown(gated, 0), run(self.true))

    def gated(self, run, gate):
        values = self.stream.values * gate(self.true).square()
        return self._with(self.stream.changed(values), run(self.true))

    def selected(self, func, args, kwargs):
        true, index = func(self.true, *args, **{**kwargs, "return_indices": True})
        lead = true.dim() - _pooled_dims(func)
        values = self.stream.values.flatten(lead).gather(lead, index.flatten(lead)).view_as(true)
        return self._with(self.stream.grown(values, 0), true)

    def moved(self, func, args, kwargs):
        true, values = func(self.true, *args, **kwargs), _loosely(func)(self.stream.values, *args, **kwargs)
        if isinstance(true, tuple | list):
            return tuple(self._part(v, t) for v, t in zip(values, true, strict=True))
        return self._part(values, true)

    def joined(self, func, parts, kwargs):
        values, exponent, drift = align([part.stream for part in parts])
        true = func([part.true for part in parts], **kwargs)
        return self._with(Scaled(func(values, **kwargs), exponent, drift), true)

    def added(self, other, run):
        if isinstance(other, Activations):
            return self._with(add(self.stream, other.stream), run(self.true, other.true))
        true = run(self.true, _cast(other, self.true))
        return self._with(self.stream.grown(self.stream.values.expand(true.shape), 0), true)

    def as_gate(self, run):
        return Gate.of(run(self.true))

    def shut(self, gate, run):
        factor = _cast(_factor(gate), self.true)
        if isinstance(gate, Gate):
            values = self.stream.values * factor.square()
            return self._with(self.stream.changed(values), run(self.true, factor))
        # A constant can be of any size, and its square of any at all.
        once = self.stream.changed(self.stream.values * factor).normalised()
        return self._with(once.changed(once.values * factor), run(self.true, factor))


class Kernel(PathTensor):
    """The path kernel h. It follows no activations, so it needs no data."""

    weights: Squares

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        # Part of a model may switch its gradients off; those of h stay on, as inference_mode(False) has them.
        with torch.inference_mode(False):
            return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def of(cls, stream: Scaled, weights: Squares) -> Kernel:
        tensor = cls.like(stream.values)
        tensor.stream, tensor.weights = stream, weights
        return tensor

    def _with(self, values: Tensor) -> Kernel:
        return self.of(self.stream.changed(values), self.weights)

    def weighted(self, func, weight, bias, args, kwargs):
        if (fixed := self.weights.filter(weight, func)) is not None:
            return self.moved(func, (fixed, *_nothing(bias, func), *args), kwargs)
        # How much a layer adds depends on its weights, so h is looked at before every layer.
        stream = self.stream.normalised()
        values = func(stream.values, self.weights.squared(weight, func), None, *args, **kwargs)
        return self.of(stream.changed(values), self.weights)

    def normed(self, norm):
        gain = norm.gain(self.dtype)
        return self._with(self.stream.values * gain.view(1, -1, *[1] * (self.dim() - 2)))

    def rectified(self, run):
        return self.of(self.stream, self.weights)

    def gated(self, run, gate):
        return self.of(self.stream, self.weights)

    def selected(self, func, args, kwargs):
        return self._with(func(self.stream.values, *args, **kwargs))

    def moved(self, func, args, kwargs):
        values = _loosely(func)(self.stream.values, *args, **kwargs)
        return tuple(self._with(v) for v in values) if isinstance(values, tuple | list) else self._with(values)

    def joined(self, func, parts, kwargs):
        values, exponent, drift = align([part.stream for part in parts])
        return self.of(Scaled(func(values, **kwargs), exponent, drift), self.weights)

    def added(self, other, run):
        if isinstance(other, Kernel):
            return self.of(add(self.stream, other.stream), self.weights)
        return self._with(_broadcast(self.stream.values, other))

    def as_gate(self, run):
        return Gate.of(torch.ones_like(self.stream.values.detach()))

    def shut(self, gate, run):
        return self._with(_broadcast(self.stream.values, _factor(gate)))


class Gate(_Shell):
    """A sigmoid's output: it multiplies features and carries no paths of its own."""

    value: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Gate:
        tensor = cls.like(value)
        tensor.value = value
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _SHAPED_AS:
            func, args = _SHAPED_AS[func], (args[0], args[1].shape)
        rule = RULES.get(func)
        if rule is product and not _in_place(func, kwargs) and any(isinstance(arg, PathTensor) for arg in args):
            return product(func, *args, **kwargs)
        if rule is structural:
            value = func(args[0].value, *args[1:], **kwargs)
            return tuple(cls.of(part) for part in value) if isinstance(value, tuple | list) else cls.of(value)
        raise UnsupportedOperation(f"{label(func)} of a sigmoid's output has no meaning for paths")


def _factor(gate: Any) -> Any:
    return gate.value if isinstance(gate, Gate) else gate


def _broadcast(values: Tensor, other: Any) -> Tensor:
    return values.expand(torch.broadcast_shapes(values.shape, other.shape)) if isinstance(other, Tensor) else values


def _cast(tensor: Any, like: Tensor) -> Any:
    return tensor.detach().to(like.dtype) if isinstance(tensor, Tensor) else tensor


def _nothing(bias: Tensor | None, func: Function) -> tuple[None]:
    if bias is not None:
        raise UnsupportedOperation(f"{label(func)} averages by a fixed filter and adds a bias")
    return (None,)


def _gated(func: Function, x: PathTensor, *args, **kwargs) -> PathTensor:
    args = tuple(_cast(arg, x) for arg in args)
    settings = {name: value for name, value in kwargs.items() if name != "inplace"}
    return x.gated(lambda u: func(u, *args, **kwargs), lambda u: GATES[func](u, *args, **settings))


def _fan_in(func: Function, weight: Tensor) -> int:
    """The most weights that one output element can read."""
    transposed = func in (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    return weight.numel() // max(1, weight.shape[1 if transposed else 0])


_CONVOLUTIONS = (F.linear, torch.conv1d, torch.conv2d, torch.conv3d)


class _ByOnes(NamedTuple):
    """A convolution of every channel by itself with weights that all read 1."""

    func: Function
    kernel: torch.Size
    channel: int
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, values: Tensor) -> Tensor:
        settings = dict(zip(("stride", "padding", "dilation", "groups"), self.args, strict=False)) | self.kwargs
        settings["groups"] = values.shape[self.channel]
        return self.func(values, values.new_ones((settings["groups"], 1, *self.kernel)), None, **settings)


def _in_place(func: Function, kwargs: dict[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _check_in_place(func: Function, target: Any) -> None:
    if not isinstance(target, PathTensor):
        raise UnsupportedOperation(f"{label(func)} writes paths into a tensor that carries none")
    if sum(view() is not None for view in getattr(target, "views", None) or ()) > 1:
        raise UnsupportedOperation(f"{label(func)} works in place on memory that other tensors in use share")


def _loosely(func: Function) -> Function:
    """The function for a stream, whose memory need not be laid out as the true activations' is."""
    return Tensor.reshape if func is Tensor.view else func


def _pooled_dims(func: Function) -> int:
    pools = {1: (F.max_pool1d, F.adaptive_max_pool1d), 2: (F.max_pool2d, F.adaptive_max_pool2d)}
    return next((dims for dims, functions in pools.items() if func in functions), 3)
