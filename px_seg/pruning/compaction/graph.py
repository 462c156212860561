"""A network as a list of operations on channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from px_seg.pruning.paths.operations import BatchNorm

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
