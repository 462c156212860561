"""A network's operations, recorded while it runs once on tensors that know their number."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from px_seg.pruning.compaction.checks import copied
from px_seg.pruning.compaction.graph import (
    Added,
    Graph,
    Joined,
    Map,
    Mapped,
    Moved,
    Multiplied,
    Normed,
    Opaque,
    Operation,
    Weighted,
)
from px_seg.pruning.compaction.narrow import LAYERS
from px_seg.pruning.compaction.numbering import channels_of, keeps_values, names_channels, numbered, stays_apart
from px_seg.pruning.modes import undisturbed
from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.operations import BatchNorm, Function, UnsupportedOperation, label
from px_seg.pruning.paths.rules import RULES, dropout, product, total
from px_seg.pruning.paths.tensors import (
    METADATA,
    SHAPED_AS,
    PathTensor,
    cast,
    check_in_place,
    note_view,
    works_in_place,
)

_CUT = (*LAYERS, _BatchNorm, nn.PReLU)
"""Modules that get fewer channels."""

_BY_SIZE = {F.pad, torch.sum, Tensor.sum}
"""They may leave constants as they are at one size and not at another."""

_MADE_LIKE = {Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor}
"""They read a tensor's dtype and device alone."""


def record(model: nn.Module, sample: Tensor) -> Graph:
    """The operations of the model, in the modes that its modules have, on `sample`, (N, C, ...), with N of 2 or more.

    In eval mode most networks do the same as in training, or less: dropout is off, as are heads for training alone. The
    model and torch's random state stay as they are.

    What `px_seg.pruning.paths.rules` has no rule for is noted as `Opaque`, and so is the innermost module around an
    operation that cannot be noted so, such as one that writes into part of a tensor. Raises UnsupportedOperation for a
    model whose outputs are not found, and InputError for one that cannot be copied.
    """
    model = copied(model)
    recording = _Recording(model)
    devices = [sample.device] if sample.device.type == "cuda" else []
    with undisturbed(sample.device), torch.no_grad(), torch.random.fork_rng(devices), recording:
        for out in leaves(model(Traced.of(sample, recording))):
            if isinstance(out, Traced):
                recording.graph.outputs.append(out.number)
            elif not isinstance(out, Tensor | int | float | str):
                raise UnsupportedOperation(f"the model returns a {type(out).__name__}, whose tensors are not found")
    if not recording.graph.outputs:
        raise UnsupportedOperation("the model returns nothing that it makes of its images")
    return recording.graph


class _Recording(TorchFunctionMode):
    """The graph of a model that runs, and where it is running.

    As a mode it sees what torch functions read beside the tensors that are followed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = Graph()
        self._running: list[str] = []
        self._owners: dict[int, str] = {}
        self._modules = dict(model.named_modules())
        for name, module in self._modules.items():
            if isinstance(module, _CUT):
                for tensor in _values(module):
                    if self._owners.setdefault(id(tensor), name) != name:
                        self._pin(self._owners[id(tensor)], "shares its weights")
                        self._pin(name, "shares its weights")
            if not isinstance(module, torch.jit.ScriptModule):
                module.forward = _followed(self, name, module)  # type: ignore[method-assign]

    def __torch_function__(
        self, func: Function, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in METADATA:
            parts = tree_leaves((args, kwargs))
            if not any(isinstance(part, Traced) for part in parts):
                self.note_read(parts)
        return func(*args, **kwargs)

    @property
    def running(self) -> str:
        """The innermost module of the model that is running."""
        return self._running[-1]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Within the context that module is running."""
        self._running.append(name)
        try:
            yield
        finally:
            self._running.pop()

    def module(self, tensor: Tensor, kinds: type | tuple[type, ...]) -> str | None:
        """The running module, if it is of one of these kinds and the tensor belongs to it."""
        name = self._owners.get(id(tensor))
        return name if name == self.running and isinstance(self._modules[name], kinds) else None

    def note_use(self, name: str) -> nn.Module:
        """The module, now that an operation of it is about to be noted."""
        module = self._modules[name]
        if any(getattr(operation, "module", None) == name for operation in self.graph.operations):
            self._pin(name, "used more than once")
        if module._forward_hooks or module._forward_pre_hooks:
            self._pin(name, "has hooks")
        return module

    def note_read(self, values: Sequence[Any]) -> None:
        """Modules to which one of the values belongs stay as they are: it is read as it is."""
        for value in values:
            if id(value) in self._owners:
                self._pin(self._owners[id(value)], "its values are read beside it")

    def note_as_whole(self, name: str, why: str) -> None:
        """A module that is not followed stays as it is, with everything in it."""
        inside = f"{name}." if name else ""
        self.graph.pinned.update(other for other in self._modules if other == name or other.startswith(inside))
        self.graph.left[f"{name or 'the model'}: {why}"] = None

    def note_opaque(self, func: Function) -> None:
        """A function that is not followed."""
        self.graph.left[f"{self.running or 'the model'}: {label(func)}"] = None

    def check_layer(self, name: str, start: int, number: int, out: Any) -> None:
        """A layer is cut only if all that it did to the tensor, from operation `start` on, is to pad and convolve."""
        made = self.graph.operations[start:]
        chain = [number, *[operation.output for operation in made]]
        follows = all(operation.inputs == (number,) for operation, number in zip(made, chain, strict=False))
        kinds = [type(operation) for operation in made]
        plain = kinds[-1:] == [Weighted] and all(kind is Moved for kind in kinds[:-1])
        if not (follows and plain and isinstance(out, Traced) and out.number == chain[-1]):
            self._pin(name, "does more than a layer of its kind")

    def _pin(self, name: str, why: str) -> None:
        if name not in self.graph.pinned:
            self.graph.pinned.add(name)
            self.graph.left[f"{name or 'the model'}: {why}"] = None


def _values(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and statistics, one element a channel or more."""
    statistics = [module._buffers.get(name) for name in ("running_mean", "running_var")]
    for tensor in (*module._parameters.values(), *statistics):
        if tensor is not None:
            yield tensor


def _followed(recording: _Recording, name: str, module: nn.Module) -> Callable[..., Any]:
    """The module's own forward, while the recording knows that it runs; as a whole where it cannot be followed."""
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(part, Traced) for part in tree_leaves((args, kwargs))):
            return forward(*args, **kwargs)
        start = len(recording.graph.operations)
        with recording.inside(name):
            number = args[0].number if args and isinstance(args[0], Traced) else None
            try:
                out = forward(*args, **kwargs)
            except UnsupportedOperation as error:
                recording.note_as_whole(name, str(error))
                return _as_one(recording, forward, args, kwargs, module=True)
            if isinstance(module, LAYERS) and number is not None:
                recording.check_layer(name, start, number, out)
            return out

    return run


class Traced(PathTensor):
    """A tensor of the network with its number in the graph."""

    true: Tensor
    number: int
    recording: _Recording
    views: list[weakref.ref[Traced]]

    @classmethod
    def of(cls, true: Tensor, recording: _Recording) -> Traced:
        tensor = cls.like(true)
        tensor.true, tensor.recording = true, recording
        tensor.number = recording.graph.tensor(channels_of(true))
        tensor.views = [weakref.ref(tensor)]
        return tensor

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in SHAPED_AS and isinstance(args[1], Traced):
            # How many channels it has is read here.
            other = args[1]
            other._new(other.true, Opaque, [other.number])
        return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def interpreted(cls, func, args, kwargs):
        try:
            return cls._followed(func, args, dict(kwargs))
        except UnsupportedOperation:
            if works_in_place(func, kwargs) or kwargs.get("out") is not None:
                raise
            recording = next(arg.recording for arg in tree_leaves((args, kwargs)) if isinstance(arg, Traced))
            result = _as_one(recording, func, args, kwargs)
            recording.note_opaque(func)
            return result

    @classmethod
    def _followed(cls, func: Function, args: tuple, kwargs: dict[str, Any]) -> Any:
        if RULES.get(func) is product and all(isinstance(arg, Traced) for arg in args[:2]):
            return _times(func, *args)
        if func in _MADE_LIKE:
            return func(args[0].true, *args[1:], **kwargs)
        if func is F.batch_norm and args[1] is not None:
            return args[0].normed(_batch_norm(*args[1:], **kwargs))
        if func is torch.prelu and args[1].numel() > 1:
            return _by_channel(*args)
        if RULES.get(func) is dropout:
            return _dropped(func, *args, **kwargs)
        if RULES.get(func) not in (total, product) and isinstance(args[0], Tensor) and not isinstance(args[0], Traced):
            raise UnsupportedOperation(f"{label(func)} of a constant is not followed")
        return super().interpreted(func, args, kwargs)

    def _new(self, true: Tensor, kind: Callable[..., Operation], inputs: Sequence[int], **settings: Any) -> Traced:
        result = self.of(true, self.recording)
        self.recording.graph.operations.append(kind(tuple(inputs), result.number, **settings))
        return result

    def weighted(self, func, weight, bias, args, kwargs):
        name = self.recording.module(weight, LAYERS)
        settings = dict(zip(("stride", "padding", "dilation", "groups"), args, strict=False)) | kwargs
        groups, padding = settings.get("groups", 1), settings.get("padding", 0)
        if name is None or self.dim() != max(weight.dim(), 2):
            raise UnsupportedOperation(f"{label(func)} reads a weight in a way that is not followed")
        module = self.recording.note_use(name)
        if bias is not module._parameters.get("bias") or groups != getattr(module, "groups", 1):
            raise UnsupportedOperation(f"{label(func)} is called with other values than those of its layer")
        pads = padding == "same" or (padding != "valid" and bool(torch.tensor(padding).any()))
        true = func(self.true, weight, bias, *args, **kwargs)
        return self._new(true, Weighted, [self.number], module=name, groups=groups, pads=pads)

    def normed(self, norm: BatchNorm):
        name = self.recording.module(norm.mean, _BatchNorm)
        if name is None:
            raise UnsupportedOperation("a normalisation by statistics of no BatchNorm is not followed")
        module = self.recording.note_use(name)
        own = (module.running_mean, module.running_var, *module._parameters.values())
        if any(one is not other for one, other in zip(norm[:4], own, strict=True)):
            raise UnsupportedOperation("a normalisation with other values than those of its BatchNorm is not followed")
        return self._new(norm.by_batch(self.true), Normed, [self.number], module=name, norm=norm)

    def _exactly(self, run: Map) -> Map:
        # Not the tensor itself, whose elements the graph would keep.
        dtype = self.dtype
        return lambda values: run(values.to(dtype)).double()

    def rectified(self, run):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def gated(self, run, gate):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def as_gate(self, run):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def selected(self, func, args, kwargs):
        if not keeps_values(func(numbered(self.true), *args, **kwargs), self.true):
            raise UnsupportedOperation(f"{label(func)} compares channels")
        return self._new(func(self.true, *args, **kwargs), Moved, [self.number], copies=1, uniform=True)

    def moved(self, func, args, kwargs):
        true, seen = (func(x, *args, **kwargs) for x in (self.true, numbered(self.true)))
        several = isinstance(true, tuple | list)
        results = list(zip(true, seen, strict=True)) if several else [(true, seen)]
        if names_channels(func, self.dim(), args, kwargs) or not all(
            stays_apart(part, self.true) for _, part in results
        ):
            raise UnsupportedOperation(f"{label(func)} moves elements between channels")
        parts = []
        for part, numbers in results:
            uniform = func not in _BY_SIZE and keeps_values(numbers, self.true)
            copies = channels_of(part) // channels_of(self.true)
            parts.append(self._new(part, Moved, [self.number], copies=copies, uniform=uniform))
            note_view(parts[-1], self)
        return tuple(parts) if several else parts[0]

    def joined(self, func, parts, kwargs):
        if func not in (torch.cat, torch.concat) or kwargs["dim"] not in (1, 1 - self.dim()):
            raise UnsupportedOperation(f"{label(func)} joins along another dimension than the channels")
        return self._new(func([part.true for part in parts], **kwargs), Joined, [part.number for part in parts])

    def added(self, other, run):
        if isinstance(other, Traced):
            _check_same_channels(self, other, "a sum")
            return self._new(run(self.true.clone(), other.true), Added, [self.number, other.number])
        return self._by_constant(other, run)

    def shut(self, gate, run):
        return self._by_constant(gate, run)

    def _by_constant(self, other: Any, run: Function) -> Traced:
        if isinstance(other, Tensor):
            self.recording.note_read([other])
            if other.numel() > 1 and (other.dim() != self.dim() or other.shape[1] > 1):
                raise UnsupportedOperation("an operation with a constant tensor is not followed")
        true = run(self.true.clone(), cast(other, self.true))
        if isinstance(other, Tensor) and other.numel() > 1:
            # Such as stochastic depth, whose numbers are others every time.
            return self._new(true, Moved, [self.number], copies=1, uniform=False)
        return self._new(true, Mapped, [self.number], constants=self._exactly(lambda u: run(u, cast(other, u))))


def _batch_norm(mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> BatchNorm:
    """The norm that arguments of torch's function describe, whose running statistics the recording leaves alone."""
    return BatchNorm(mean, var, weight, bias, eps)


def _times(func: Function, x: Traced, other: Traced) -> Traced:
    _check_same_channels(x, other, label(func))
    return _instead(x, x._new(torch.mul(x.true, other.true), Multiplied, [x.number, other.number]), func, {})


def _instead(x: Traced, result: Traced, func: Function, kwargs: dict[str, Any]) -> Traced:
    """The result, in place of the tensor where the function overwrites it."""
    if not works_in_place(func, kwargs):
        return result
    check_in_place(func, x)
    x.__dict__ = {**result.__dict__, "views": x.views}
    return x


def _by_channel(x: Traced, slopes: Tensor) -> Traced:
    name = x.recording.module(slopes, nn.PReLU)
    if name is None:
        raise UnsupportedOperation("slopes of no PReLU are not followed")
    x.recording.note_use(name)
    run = x._exactly(lambda u: torch.prelu(u, slopes))
    return x._new(torch.prelu(x.true, slopes), Mapped, [x.number], constants=run, module=name)


def _dropped(func: Function, x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    """In training it makes one thing of a constant channel here and another there."""
    dropped = x._new(x.true, Moved, [x.number], copies=1, uniform=p == 0 or not training)
    return _instead(x, dropped, func, {"inplace": inplace})


def _as_one(recording: _Recording, func: Function, args: tuple, kwargs: dict[str, Any], module: bool = False) -> Any:
    """The function's own result, all channels of the tensors that go in and come out being needed.

    A module may overwrite what goes in, and return more than tensors.
    """
    inputs = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Traced)]
    others = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor) and not isinstance(part, Traced)]
    recording.note_read(others)
    numbers = [x.number for x in inputs]
    before = [x.true._version for x in inputs], [other._version for other in others]
    args, kwargs = tree_map(lambda part: part.true if isinstance(part, Traced) else part, (args, kwargs))
    results = func(*args, **kwargs)
    written = [x for x, version in zip(inputs, before[0], strict=True) if x.true._version != version]
    if [other._version for other in others] != before[1] or (written and not module):
        raise UnsupportedOperation(f"{label(func)} writes into a tensor")
    for x in written:
        for view in x.views:
            if (other := view()) is not None:
                other.number = inputs[0]._new(other.true, Opaque, numbers).number

    def traced(part: Any) -> Any:
        if isinstance(part, Tensor):
            result = inputs[0]._new(part, Opaque, numbers)
            for x in inputs:
                note_view(result, x)
            return result
        if part is None or (module and isinstance(part, int | str)):
            return part
        raise UnsupportedOperation(f"{label(func)} makes a {type(part).__name__} of a tensor")

    return tree_map(traced, results)


def _check_same_channels(x: Traced, other: Traced, what: str) -> None:
    if channels_of(x.true) != channels_of(other.true):
        raise UnsupportedOperation(f"{what} that copies one channel into several is not followed")
