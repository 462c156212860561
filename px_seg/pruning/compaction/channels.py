"""Which channels of a network are needed, and what those are that no path from the image reaches."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.pruning.compaction.graph import (
    Added,
    Graph,
    Joined,
    Mapped,
    Moved,
    Multiplied,
    Normed,
    Opaque,
    Operation,
    Weighted,
)
from px_seg.pruning.paths.operations import BatchNorm

BLOCK = 16
"""Channels that processors compute at once; of other numbers ONNX Runtime has depthwise convolutions one by one."""


class Constants(NamedTuple):
    """Channels that no path from the image reaches: the same everywhere, and for every image."""

    varies: Tensor
    """(C,) bool: the channels that are not constant."""
    values: Tensor
    """(2, C) float64, the constants as BatchNorms make them in eval mode and in training; 0 for what varies."""


class Channels(NamedTuple):
    """What is known of every tensor in a graph, by its number."""

    constants: list[Constants]
    kept: list[Tensor]
    """(C,) bool: the channels that the smaller network computes."""


def needed_channels(
    model: nn.Module, graph: Graph, weights: Mapping[str, Tensor], wired: Mapping[str, Tensor]
) -> Channels:
    """The channels of every tensor that a smaller network must compute to return the same.

    A channel is needed where it varies and something reads it. Channels that operations tie together, as a sum its
    operands', are kept or left out together, and depthwise convolutions keep a few more, so that BLOCK divides their
    number, where they have as many. `weights` are the weights in force by the name of their module, and
    `wired` says which channels they connect, (out, in / groups) bool.
    """
    constants = _constants(model, graph, weights, wired)
    read = _read(graph, wired)
    kept = [c.varies & r for c, r in zip(constants, read, strict=True)]
    for number in graph.outputs:
        kept[number][:] = True
    kept[0][:] = True
    for operation in graph.operations:
        if isinstance(operation, Opaque) or getattr(operation, "module", None) in graph.pinned:
            for number in (*operation.inputs, operation.output):
                kept[number][:] = True
    _close(graph, kept)
    while _fill_blocks(graph, kept):
        _close(graph, kept)
    return Channels(constants, kept)


def _inputs(wired: Tensor, groups: int, channels: Tensor) -> Tensor:
    """The values of the input channels, (..., in), beside the weights that read them, (..., out, in / groups)."""
    parts = channels.unflatten(-1, (groups, -1))
    return parts.repeat_interleave(len(wired) // groups, -2)


def _constants(
    model: nn.Module, graph: Graph, weights: Mapping[str, Tensor], wired: Mapping[str, Tensor]
) -> list[Constants]:
    device = next(iter(model.parameters())).device
    found: dict[int, Constants] = {
        n: Constants(
            torch.ones(channels, dtype=torch.bool, device=device),
            torch.zeros(2, channels, dtype=torch.float64, device=device),
        )
        for n, channels in enumerate(graph.channels)
    }
    for operation in graph.operations:
        inputs = [found[number] for number in operation.inputs]
        result = _constants_after(model, operation, inputs, weights, wired)
        if result is not None:
            varies, values = result
            found[operation.output] = Constants(varies, torch.where(varies, 0.0, values))
    return [found[n] for n in range(len(graph.channels))]


def _constants_after(
    model: nn.Module,
    operation: Operation,
    inputs: list[Constants],
    weights: Mapping[str, Tensor],
    wired: Mapping[str, Tensor],
) -> Constants | None:
    """What an operation makes of constants; None where all channels vary."""
    varies, values = inputs[0]
    if isinstance(operation, Weighted):
        wires = wired[operation.module]
        module = model.get_submodule(operation.module)
        reached = (_inputs(wires, operation.groups, varies) & wires).any(1)
        taps = constant_taps(weights[operation.module], operation.groups, values)
        # Elements outside of the input are 0 and not the constant: the result differs at the borders.
        uneven = taps.ne(0).any(2).any(0) if operation.pads else torch.zeros_like(reached)
        sums = taps.sum(2)
        bias = module._parameters["bias"]
        return Constants(reached | uneven, sums if bias is None else sums + bias.detach().to(sums))
    if isinstance(operation, Normed):
        after = _normed(operation.norm, values)
        if model.get_submodule(operation.module).momentum is None:
            # Its statistics are averages over all batches: how they go on depends on how many there were.
            varies = varies | after[0].ne(after[1])
        return Constants(varies, after)
    if isinstance(operation, Mapped):
        return Constants(varies, _applied(operation, values))
    if isinstance(operation, Moved):
        varies = varies if operation.uniform else varies | values.ne(0).any(0)
        return Constants(varies.repeat_interleave(operation.copies), values.repeat_interleave(operation.copies, dim=1))
    if isinstance(operation, Joined):
        return Constants(torch.cat([c.varies for c in inputs]), torch.cat([c.values for c in inputs], dim=1))
    if isinstance(operation, Added):
        return Constants(varies | inputs[1].varies, values + inputs[1].values)
    if isinstance(operation, Multiplied):
        nothing = [~c.varies & (c.values == 0).all(0) for c in inputs]
        return Constants((varies | inputs[1].varies) & ~nothing[0] & ~nothing[1], values * inputs[1].values)
    return None


def constant_taps(weight: Tensor, groups: int, values: Tensor) -> Tensor:
    """(2, out, taps): every output channel's weights for one input channel of ones in place of all constant ones."""
    weight = weight.detach().reshape(*weight.shape[:2], -1)
    if groups == 1:
        # Most channels vary, and wide layers are large.
        constant = values.any(0).nonzero()[:, 0]
        return torch.einsum("oit,si->sot", weight.index_select(1, constant).double(), values[:, constant])
    return torch.einsum("oit,soi->sot", weight.double(), _inputs(weight, groups, values))


def _normed(norm: BatchNorm, values: Tensor) -> Tensor:
    """Constants after a BatchNorm: by running statistics, and by those of a batch, in which they do not vary."""
    bias = torch.zeros_like(values[:1]) if norm.bias is None else norm.bias.detach().to(values)[None]
    return torch.cat([norm(values[:1]), bias])


def _applied(operation: Mapped, values: Tensor) -> Tensor:
    return operation.constants(values[:, :, None, None].clone())[:, :, 0, 0]


def _read(graph: Graph, wired: Mapping[str, Tensor]) -> list[Tensor]:
    """By tensor, the channels that something reads which leads to an output."""
    device = next(iter(wired.values())).device if wired else torch.device("cpu")
    read = [torch.zeros(channels, dtype=torch.bool, device=device) for channels in graph.channels]
    for number in graph.outputs:
        read[number][:] = True
    for operation in reversed(graph.operations):
        after = read[operation.output]
        if isinstance(operation, Opaque):
            for number in operation.inputs:
                read[number][:] = True
        elif isinstance(operation, Weighted):
            wires = wired[operation.module] & after[:, None]
            parts = wires.unflatten(0, (operation.groups, -1)).any(1).flatten()
            read[operation.inputs[0]] |= parts
        else:
            for number, part in zip(operation.inputs, _parts(graph, operation, after), strict=True):
                read[number] |= part
    return read


def _parts(graph: Graph, operation: Operation, after: Tensor) -> list[Tensor]:
    """What is said of an operation's channels, for the channels of each of its inputs."""
    if isinstance(operation, Joined):
        return list(after.split([graph.channels[number] for number in operation.inputs]))
    copies = operation.copies if isinstance(operation, Moved) else 1
    return [after.unflatten(0, (-1, copies)).any(1)] * len(operation.inputs)


def _close(graph: Graph, kept: list[Tensor]) -> None:
    """Adds the channels that are tied to kept ones, and one to tensors that have none."""
    while True:
        before = [mask.clone() for mask in kept]
        for operation in (*graph.operations, *reversed(graph.operations)):
            _tie(graph, operation, kept)
        for mask in kept:
            # No layer computes nothing at all.
            if not mask.any():
                mask[:1] = True
        if all(torch.equal(a, b) for a, b in zip(before, kept, strict=True)):
            return


def _fill_blocks(graph: Graph, kept: list[Tensor]) -> bool:
    """Adds channels to depthwise convolutions, the first there are, where they fill blocks; whether it added any."""
    added = False
    for operation in graph.of(Weighted):
        mask = kept[operation.output]
        if operation.groups == len(mask) > 1:
            lacking, others = -int(mask.count_nonzero()) % BLOCK, (~mask).nonzero()[:, 0]
            if 0 < lacking <= len(others):
                mask[others[:lacking]] = True
                added = True
    return added


def _tie(graph: Graph, operation: Operation, kept: list[Tensor]) -> None:
    if isinstance(operation, Opaque):
        return
    inputs, after = [kept[number] for number in operation.inputs], kept[operation.output]
    if isinstance(operation, Weighted):
        if operation.groups > 1:
            # A group keeps all of its channels or none, so that the groups stay alike.
            parts = [side.unflatten(0, (operation.groups, -1)) for side in (inputs[0], after)]
            alive = parts[0].any(1) | parts[1].any(1)
            for part in parts:
                part |= alive[:, None]
        return
    if isinstance(operation, Joined):
        together = torch.cat(inputs) | after
    else:
        copies = operation.copies if isinstance(operation, Moved) else 1
        alive = after.unflatten(0, (-1, copies)).any(1)
        for mask in inputs:
            alive = alive | mask
        together = alive.repeat_interleave(copies)
    after |= together
    for mask, part in zip(inputs, _parts(graph, operation, together), strict=True):
        mask |= part
