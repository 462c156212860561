"""A network as a list of operations on channels, recorded while it runs once."""

from __future__ import annotations

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from px_seg.models.narrow import LAYERS
from px_seg.pruning.modes import all_training, undisturbed
from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.operations import BatchNorm, Function, UnsupportedOperation, label
from px_seg.pruning.paths.rules import RULES, dropout, product
from px_seg.pruning.paths.tensors import PathTensor, cast, check_in_place, note_view, works_in_place

Map = Callable[[Tensor], Tensor]
"""What an operation makes of constant channels, (1, C, 1, ...) in float64."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What makes a tensor, by the numbers of tensors: their channels are those of dimension 1."""

    inputs: tuple[int, ...]
    output: int


class Opaque(Operation):
    """Anything that mixes channels in a way that is not followed: it needs all of them, in their places."""


@dataclass(frozen=True, eq=False)
class Weighted(Operation):
    """A convolution or linear layer with a weight (out, in / groups, ...) of its own."""

    module: str
    groups: int
    pads: bool
    """Whether elements outside of the input, which are 0, may be read."""


@dataclass(frozen=True, eq=False)
class Normed(Operation):
    """A BatchNorm with running statistics."""

    module: str
    norm: BatchNorm


@dataclass(frozen=True, eq=False)
class Mapped(Operation):
    """Every channel by itself, elements alike: an activation function."""

    constants: Map
    module: str | None = None
    """A module with one parameter a channel, a PReLU."""


@dataclass(frozen=True, eq=False)
class Moved(Operation):
    """Elements averaged or rearranged within their channels, each of which becomes `copies` channels in its place."""

    copies: int
    uniform: bool
    """Whether a channel that is the same everywhere stays as it is."""


class Added(Operation):
    """The sum of two tensors with the same channels."""


class Multiplied(Operation):
    """The product of two tensors with the same channels."""


class Joined(Operation):
    """Channels of several tensors, one after another."""


@dataclass
class Graph:
    """A network's operations, in the order in which they ran."""

    channels: list[int] = field(default_factory=list)
    """Of every tensor."""
    operations: list[Operation] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    """Modules that run more than once, or whose weights others read: they stay as they are."""
    left: dict[str, None] = field(default_factory=dict)
    """What was not followed, in words, in order."""

    def tensor(self, channels: int) -> int:
        """The number of a new tensor."""
        self.channels.append(channels)
        return len(self.channels) - 1

    def of(self, kind: type[Operation]) -> Iterator[Any]:
        """The operations of one kind."""
        return (operation for operation in self.operations if isinstance(operation, kind))


class _Owners:
    """The layers of a model by the identity of what they read."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules: dict[int, str] = {}
        counts: Counter[int] = Counter()
        for name, module in model.named_modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self.modules.setdefault(id(tensor), name)
                    counts[id(tensor)] += 1
        self.shared = {self.modules[key] for key, count in counts.items() if count > 1}
        self._names = {id(module): name for name, module in model.named_modules()}

    def of(self, tensor: Tensor, kinds: type | tuple[type, ...]) -> str | None:
        """The module of one of these kinds that the tensor belongs to."""
        name = self.modules.get(id(tensor))
        return name if name is not None and isinstance(self.model.get_submodule(name), kinds) else None

    def running(self) -> str:
        """The innermost module of the model that is running, found among the callers."""
        frame = inspect.currentframe()
        while frame is not None:
            name = self._names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""


_BY_SIZE = {F.pad, torch.sum, Tensor.sum}
"""They may leave constants as they are at one size and not at another."""

_MADE_LIKE = {Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor}
"""They read a tensor's dtype and device alone."""


def _batch_norm(mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> BatchNorm:
    """The norm that arguments of torch's function describe, whose running statistics the recording leaves alone."""
    return BatchNorm(mean, var, weight, bias, eps)


class Traced(PathTensor):
    """A tensor of the network with its number in the graph."""

    true: Tensor
    number: int
    graph: Graph
    owners: _Owners
    views: list[weakref.ref[Traced]]

    @classmethod
    def of(cls, true: Tensor, graph: Graph, owners: _Owners) -> Traced:
        tensor = cls.like(true)
        tensor.true, tensor.graph, tensor.owners = true, graph, owners
        tensor.number = graph.tensor(_channels(true))
        tensor.views = [weakref.ref(tensor)]
        return tensor

    @classmethod
    def interpreted(cls, func, args, kwargs):
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
        try:
            return super().interpreted(func, args, dict(kwargs))
        except UnsupportedOperation:
            if works_in_place(func, kwargs) or kwargs.get("out") is not None:
                raise
            return _opaque(func, args, kwargs)

    def _new(self, true: Tensor, kind: Callable[..., Operation], inputs: Sequence[int], **settings: Any) -> Traced:
        result = self.of(true, self.graph, self.owners)
        self.graph.operations.append(kind(tuple(inputs), result.number, **settings))
        return result

    def weighted(self, func, weight, bias, args, kwargs):
        name = self.owners.of(weight, LAYERS)
        if name is None or name != self.owners.running() or self.dim() != max(weight.dim(), 2):
            raise UnsupportedOperation(f"{label(func)} reads a weight in a way that is not followed")
        module = self.owners.model.get_submodule(name)
        self._note(name)
        true = func(self.true, weight, bias, *args, **kwargs)
        pads = _reads_outside(module)
        return self._new(true, Weighted, [self.number], module=name, groups=getattr(module, "groups", 1), pads=pads)

    def normed(self, norm: BatchNorm):
        name = self.owners.of(norm.mean, _BatchNorm)
        if name is None:
            raise UnsupportedOperation("a normalisation by statistics of no BatchNorm is not followed")
        self._note(name)
        return self._new(norm.by_batch(self.true), Normed, [self.number], module=name, norm=norm)

    def _note(self, name: str) -> None:
        if name in self.owners.shared or any(getattr(o, "module", None) == name for o in self.graph.operations):
            self.graph.pinned.add(name)
            self.graph.left[f"{name}: used more than once"] = None

    def _exactly(self, run: Map) -> Map:
        return lambda values: run(values.to(self.dtype)).double()

    def rectified(self, run):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def gated(self, run, gate):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def as_gate(self, run):
        return self._new(run(self.true), Mapped, [self.number], constants=self._exactly(run))

    def selected(self, func, args, kwargs):
        return self._new(func(self.true, *args, **kwargs), Moved, [self.number], copies=1, uniform=True)

    def moved(self, func, args, kwargs):
        true = func(self.true, *args, **kwargs)
        several = isinstance(true, tuple | list)
        seen = func(_numbered(self.true), *args, **kwargs)
        settings = [_movement(part, self.true) for part in (seen if several else [seen])]
        if any(found is None for found in settings) or not _follows_channels(func, args):
            raise UnsupportedOperation(f"{label(func)} moves elements between channels")
        parts = [
            self._new(part, Moved, [self.number], copies=found[0], uniform=found[1] and func not in _BY_SIZE)
            for part, found in zip(true if several else [true], settings, strict=True)
            if found is not None
        ]
        for part in parts:
            note_view(part, self)
        return tuple(parts) if several else parts[0]

    def joined(self, func, parts, kwargs):
        if func not in (torch.cat, torch.concat) or kwargs["dim"] not in (1, 1 - self.dim()):
            raise UnsupportedOperation(f"{label(func)} joins along another dimension than the channels")
        return self._new(func([part.true for part in parts], **kwargs), Joined, [part.number for part in parts])

    def added(self, other, run):
        if isinstance(other, Traced):
            true = run(self.true.clone(), other.true)
            if _channels(self.true) != _channels(other.true):
                raise UnsupportedOperation("a sum that copies one channel into several is not followed")
            return self._new(true, Added, [self.number, other.number])
        return self._by_constant(other, run)

    def shut(self, gate, run):
        return self._by_constant(gate, run)

    def _by_constant(self, other: Any, run: Function) -> Traced:
        if isinstance(other, Tensor) and other.numel() > 1 and (other.dim() != self.dim() or other.shape[1] > 1):
            raise UnsupportedOperation("an operation with a constant tensor is not followed")
        true = run(self.true.clone(), cast(other, self.true))
        if isinstance(other, Tensor) and other.numel() > 1:
            # Such as stochastic depth, whose numbers are others every time.
            return self._new(true, Moved, [self.number], copies=1, uniform=False)
        return self._new(true, Mapped, [self.number], constants=self._exactly(lambda u: run(u, cast(other, u))))


def _times(func: Function, x: Traced, other: Traced) -> Traced:
    if _channels(x.true) != _channels(other.true):
        if works_in_place(func, {}):
            raise UnsupportedOperation(f"{label(func)} writes one channel into several")
        return _opaque(func, (x, other), {})
    return _instead(x, x._new(torch.mul(x.true, other.true), Multiplied, [x.number, other.number]), func, {})


def _instead(x: Traced, result: Traced, func: Function, kwargs: dict[str, Any]) -> Traced:
    """The result, in place of the tensor where the function overwrites it."""
    if not works_in_place(func, kwargs):
        return result
    check_in_place(func, x)
    x.__dict__ = {**result.__dict__, "views": x.views}
    return x


def _by_channel(x: Traced, slopes: Tensor) -> Traced:
    name = x.owners.of(slopes, nn.PReLU)
    if name is None:
        return _opaque(torch.prelu, (x, slopes), {})
    x._note(name)
    run = x._exactly(lambda u: torch.prelu(u, slopes))
    return x._new(torch.prelu(x.true, slopes), Mapped, [x.number], constants=run, module=name)


def _dropped(func: Function, x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    """In training it makes one thing of a constant channel here and another there."""
    dropped = x._new(x.true, Moved, [x.number], copies=1, uniform=p == 0)
    return _instead(x, dropped, func, {"inplace": inplace})


def _opaque(func: Function, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The function's own result, all channels of its tensors being needed."""
    inputs: list[Traced] = []

    def plain(arg: Any) -> Any:
        if isinstance(arg, Traced):
            inputs.append(arg)
            return arg.true
        return arg

    args, kwargs = tree_map(plain, (args, kwargs))
    results = func(*args, **kwargs)
    numbers = [x.number for x in inputs]
    inputs[0].graph.left[f"{inputs[0].owners.running() or 'the model'}: {label(func)}"] = None
    return tree_map(lambda r: inputs[0]._new(r, Opaque, numbers) if isinstance(r, Tensor) else r, results)


def record(model: nn.Module, sample: Tensor) -> Graph:
    """The operations of the model in training on `sample`, (N, C, ...), with N of 2 or more.

    In eval mode a network does the same or less: dropout is off, as are heads for training alone. Running statistics
    and torch's random state stay as they are.

    What `px_seg.pruning.paths.rules` has no rule for is noted as `Opaque`. Raises UnsupportedOperation, naming it,
    for an operation that hides its work or writes in place what is not followed.
    """
    graph, owners = Graph(), _Owners(model)
    devices = [sample.device] if sample.device.type == "cuda" else []
    with all_training(model), undisturbed(sample.device), torch.no_grad(), torch.random.fork_rng(devices):
        for out in leaves(model(Traced.of(sample, graph, owners))):
            if isinstance(out, Traced):
                graph.outputs.append(out.number)
    return graph


def _channels(tensor: Tensor) -> int:
    return tensor.shape[1] if tensor.dim() > 1 else 1


def _numbered(like: Tensor) -> Tensor:
    """A tensor of this shape whose elements are the number of their channel, from 1 on."""
    if like.dim() < 2:
        return torch.ones_like(like, dtype=torch.float64)
    numbers = torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device)
    return numbers.view(1, -1, *[1] * (like.dim() - 2)).expand(like.shape).clone(memory_format=torch.contiguous_format)


def _movement(seen: Tensor, before: Tensor) -> tuple[int, bool] | None:
    """How many channels one becomes, and whether it keeps its values: from what became of numbered channels."""
    channels = _channels(before)
    if seen.dim() < 2 or before.dim() < 2 or seen.numel() == 0 or seen.shape[1] % channels:
        return None
    copies = seen.shape[1] // channels
    wanted = torch.arange(1, channels + 1, dtype=torch.float64, device=seen.device).repeat_interleave(copies)
    wanted = wanted.view(1, -1, *[1] * (seen.dim() - 2))
    # A sum, or an average over elements outside, is a multiple that is the same for all channels.
    shares = seen / wanted
    if not torch.allclose(shares, shares[:, :1].expand_as(shares)) and copies == 1:
        return None
    if copies > 1 and not torch.allclose(shares, torch.ones_like(shares)):
        return None
    return copies, bool(torch.allclose(shares, torch.ones_like(shares)))


def _follows_channels(func: Function, args: tuple) -> bool:
    """Whether the function would do the same with fewer channels: not where it names their number."""
    if func in (Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand):
        sizes = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
        return len(sizes) > 1 and sizes[1] == -1
    return True


def _reads_outside(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return isinstance(module.padding, str) or any(module.padding)
