"""The two streams of PX, and the one that is both: what each kind of operation does to them."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from px_seg.pruning.paths.operations import Function, UnsupportedOperation, label
from px_seg.pruning.paths.scaled import Scaled, add, align
from px_seg.pruning.paths.tensors import Gate, PathTensor, cast, note_view
from px_seg.pruning.paths.weights import Powers, TrueAndLive, TrueAndSquares, Weights


class BesideTrue(PathTensor):
    """A stream beside the true network's activations, which give it its gates, and of their dtype."""

    true: Tensor
    weights: Weights
    views: list[weakref.ref[BesideTrue]]
    """All tensors whose true activations share memory with this one's, itself among them."""

    @classmethod
    def of(cls, stream: Scaled, true: Tensor, weights: Weights) -> Self:
        """`stream` and `true` have the same shape, (N, ...), and memory of their own."""
        tensor = cls.like(true)
        tensor.stream, tensor.true, tensor.weights = stream, true, weights
        tensor.views = [weakref.ref(tensor)]
        return tensor

    def _with(self, stream: Scaled, true: Tensor) -> Self:
        return self.of(stream, true, self.weights)

    def _part(self, values: Tensor, true: Tensor) -> Self:
        """A tensor of some of this one's elements, which may share its memory."""
        part = self._with(self.stream.changed(values), true)
        note_view(part, self)
        return part

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
        if isinstance(other, BesideTrue):
            return self._with(add(self.stream, other.stream), run(self.true, other.true))
        true = run(self.true, cast(other, self.true))
        return self._with(self.stream.grown(self.stream.values.expand(true.shape), 0), true)

    def as_gate(self, run):
        return Gate.of(run(self.true))

    def shut(self, gate, run):
        factor = cast(_factor(gate), self.true)
        if isinstance(gate, Gate):
            values = self.stream.values * factor.square()
            return self._with(self.stream.changed(values), run(self.true, factor))
        # A constant can be of any size, and its square of any at all.
        once = self.stream.changed(self.stream.values * factor).normalised()
        return self._with(once.changed(once.values * factor), run(self.true, factor))


class Activations(BesideTrue):
    """Path activations g."""

    weights: TrueAndLive
    late: _ByOnes | None
    """A depthwise convolution by ones that the values still have to pass; see `weighted`."""
    _stream: Scaled

    @property
    def stream(self) -> Scaled:
        if self.late is not None:
            self.stream = self._stream.grown(self.late(self._stream.values), 0)
        return self._stream

    @stream.setter
    def stream(self, stream: Scaled) -> None:
        self._stream, self.late = stream, None

    def weighted(self, func, weight, bias, args, kwargs):
        if (fixed := self.weights.filter(weight, func)) is not None:
            return self.moved(func, (fixed, *_nothing(bias, func), *args), kwargs)
        true, live = self.weights.read(weight, func)
        true = func(self.true, true, cast(bias, self.true), *args, **kwargs)
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


class _Differentiable(PathTensor):
    """A stream with gradients, which part of a model may have switched off for itself."""

    @classmethod
    def interpreted(cls, func, args, kwargs):
        # This switches gradients on as well.
        with torch.inference_mode(False):
            return super().interpreted(func, args, kwargs)


class Kernel(_Differentiable):
    """The path kernel h. It follows no activations, so it needs no data."""

    weights: Powers

    @classmethod
    def of(cls, stream: Scaled, weights: Powers) -> Kernel:
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
        values = func(stream.values, self.weights.read(weight, func), None, *args, **kwargs)
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


class Squares(Kernel):
    """The path kernel by itself, without g: constants that multiply features, which g carries, count in it squared."""

    def shut(self, gate, run):
        return super().shut(gate, run) if isinstance(gate, Gate) else self._with(self.stream.values * gate**2)


class Magnitudes(Kernel):
    """The same walk for |theta| in place of theta**2: the network with all its factors made positive, and linear."""

    def normed(self, norm):
        gain = norm.gain(self.dtype).sqrt()
        return self._with(self.stream.values * gain.view(1, -1, *[1] * (self.dim() - 2)))

    def shut(self, gate, run):
        return super().shut(gate, run) if isinstance(gate, Gate) else self._with(self.stream.values * abs(gate))


class GatedKernel(_Differentiable, BesideTrue):
    """The path kernel under the true network's gates, from the images squared.

    What is kept for the backward pass is of the stream alone: the true activations are no part of it.
    """

    weights: TrueAndSquares

    def weighted(self, func, weight, bias, args, kwargs):
        if (fixed := self.weights.filter(weight, func)) is not None:
            return self.moved(func, (fixed, *_nothing(bias, func), *args), kwargs)
        true, square = self.weights.both(weight, func)
        true = func(self.true, true, cast(bias, self.true), *args, **kwargs)
        # Kept, so that a shortcut around this layer continues with the same exponent.
        self.stream = self.stream.normalised()
        return self._with(self.stream.changed(func(self.stream.values, square, None, *args, **kwargs)), true)

    def normed(self, norm):
        gain = norm.gain(self.dtype).view(1, -1, *[1] * (self.dim() - 2))
        return self._with(self.stream.changed(self.stream.values * gain), norm(self.true))

    def rectified(self, run):
        # A gate that is kept as one byte an element.
        return self._with(self.stream.grown(self.stream.values.where(self.true > 0, 0), 0), run(self.true))


def _factor(gate: Any) -> Any:
    return gate.value if isinstance(gate, Gate) else gate


def _broadcast(values: Tensor, other: Any) -> Tensor:
    return values.expand(torch.broadcast_shapes(values.shape, other.shape)) if isinstance(other, Tensor) else values


def _nothing(bias: Tensor | None, func: Function) -> tuple[None]:
    if bias is not None:
        raise UnsupportedOperation(f"{label(func)} averages with a fixed filter and adds a bias")
    return (None,)


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


def _loosely(func: Function) -> Function:
    """The function for a stream, whose memory need not be laid out as the true activations' is."""
    return Tensor.reshape if func is Tensor.view else func


def _pooled_dims(func: Function) -> int:
    pools = {1: (F.max_pool1d, F.adaptive_max_pool1d), 2: (F.max_pool2d, F.adaptive_max_pool2d)}
    return next((dims for dims, functions in pools.items() if func in functions), 3)
