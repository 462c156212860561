"""A pruned network as a smaller dense one."""

import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from px_seg.pruning.compaction.channels import Channels, constant_taps, needed_channels
from px_seg.pruning.compaction.checks import check_model, check_same, copied, random_images
from px_seg.pruning.compaction.graph import Graph, Mapped, Normed, Weighted
from px_seg.pruning.compaction.narrow import (
    Constants,
    Narrow,
    cut_channels,
    cut_layer,
    cut_weight,
    ones_layer,
    with_layer,
)
from px_seg.pruning.compaction.recording import record
from px_seg.pruning.modes import all_training

_WORTH = 64
"""Multiplications for one element that is copied, from which on a layer reads or makes fewer channels than it could."""


class Place(NamedTuple):
    """Where a smaller weight lies in the wide one."""

    name: str
    """Of the wide one."""
    rows: Tensor
    columns: Tensor


class Compaction(NamedTuple):
    """A smaller network, and what belongs to it."""

    model: nn.Module
    masks: dict[str, Tensor]
    """Of its weights, by their new names, for the weights that were masked before."""
    left: list[str]
    """What could not be shrunk, in words."""
    places: dict[str, Place]
    """Of the weights that were cut, by their new names."""


def compact(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None, shape: Sequence[int] = (3, 64, 64)
) -> nn.Module:
    """The same function in smaller dense tensors: a new model, which has no channel that nothing needs.

    `masks` by parameter name; None takes the zeros among the weights for pruned. `shape` (C, H, W) is that of an image
    that the model takes; the new one takes others as well. Both return the same in eval mode and in training, where
    dropout is off, up to rounding: this is checked on random images. The model comes back as it was. What is not
    known to be safe to shrink stays as it is, and a warning names it.

    Raises InputError for masks that do not fit, for a model that has been compacted before, cannot be copied or does
    not run on such an image, and UnsupportedOperation where the two do not return the same.
    """
    found = shrink(model, masks, shape)
    if found.left:
        more = f"; and {len(found.left) - 3} more, which px_seg.deploy.shrink lists" if len(found.left) > 3 else ""
        warnings.warn(f"not made smaller: {'; '.join(found.left[:3])}{more}", stacklevel=2)
    return found.model


def shrink(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None, shape: Sequence[int] = (3, 64, 64)
) -> Compaction:
    """What `compact` does, with masks for the smaller network and what was left as it is."""
    check_model(model, masks)
    dense = masked_copy(model, masks)
    images = random_images(dense, shape)
    with all_training(dense):
        graph = record(dense, images[0])
    found = cut(copied(dense), graph, masks)
    check_same(dense, found.model, images)
    return found


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor] | None) -> nn.Module:
    """A copy of the model in which pruned weights are 0. Raises InputError if it cannot be copied."""
    dense = copied(model)
    with torch.no_grad():
        for name, mask in (masks or {}).items():
            parameter = dense.get_parameter(name)
            parameter.mul_(mask.to(parameter))
    return dense


@torch.no_grad()
def cut(model: nn.Module, graph: Graph, masks: Mapping[str, Tensor] | None) -> Compaction:
    """The model itself, its pruned weights being 0, without the channels that nothing needs; `graph` is of its making.

    Nothing is checked.
    """
    channels, wired = _needed(model, graph, masks)
    return _shrunk(model, graph, channels, wired, masks or {})


@torch.no_grad()
def share_left(model: nn.Module, graph: Graph, masks: Mapping[str, Tensor]) -> float:
    """The share of the weights of layers that `cut` leaves, zeros included, about: its layers may keep a few more.

    The model need not have the masks applied, and is not copied.
    """
    kept = _needed(model, graph, masks)[0].kept
    total, left = 0.0, 0.0
    for operation in graph.of(Weighted):
        size = model.get_submodule(operation.module).get_parameter("weight").numel()
        total += size
        sides = [operation.output] if operation.groups > 1 else [*operation.inputs, operation.output]
        left += size * prod(float(kept[side].double().mean()) for side in sides)
    return left / total


def _needed(model: nn.Module, graph: Graph, masks: Mapping[str, Tensor] | None) -> tuple[Channels, dict[str, Tensor]]:
    """The channels that stay, and which channels each layer connects."""
    names = {operation.module for operation in graph.of(Weighted)}
    weights = {name: model.get_submodule(name).get_parameter("weight") for name in names}
    wired = {name: _wired(name, weight, masks) for name, weight in weights.items()}
    return needed_channels(model, graph, weights, wired), wired


def _wired(name: str, weight: Tensor, masks: Mapping[str, Tensor] | None) -> Tensor:
    """(out, in / groups): whether a weight leads from one channel to the other that may be other than 0.

    One that is kept and happens to be 0 need not stay so.
    """
    mask = weight != 0 if masks is None else masks.get(_of(name, "weight"))
    if mask is None:
        return weight.new_ones(weight.shape[:2], dtype=torch.bool)
    return mask.to(weight.device).bool().reshape(*weight.shape[:2], -1).any(2)


def _of(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _shrunk(
    model: nn.Module, graph: Graph, channels: Channels, wired: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> Compaction:
    """The model itself, its layers replaced."""
    small_masks = dict(masks)
    places = {}
    decay = _decay(model, graph)
    for operation in (*graph.of(Normed), *graph.of(Mapped)):
        if operation.module is None or operation.module in graph.pinned:
            continue
        kept = channels.kept[operation.output].nonzero()[:, 0]
        cut_channels(model.get_submodule(operation.module), kept)
        for name in (_of(operation.module, part) for part in ("weight", "bias")):
            if name in small_masks:
                small_masks[name] = small_masks[name][kept.to(small_masks[name].device)]
    for operation in graph.of(Weighted):
        if operation.module in graph.pinned:
            continue
        layer, rows, columns = _narrowed(
            model.get_submodule(operation.module), operation, channels, wired[operation.module], decay
        )
        model = with_layer(model, operation.module, layer)
        inside = _of(operation.module, "layer") if isinstance(layer, Narrow) else operation.module
        places[_of(inside, "weight")] = Place(_of(operation.module, "weight"), rows, columns)
        if (mask := small_masks.pop(_of(operation.module, "weight"), None)) is not None:
            small_masks[_of(inside, "weight")] = cut_weight(mask, rows, columns)
        if (mask := small_masks.pop(_of(operation.module, "bias"), None)) is not None:
            small_masks[_of(inside, "bias")] = mask[rows.to(mask.device)]
    return Compaction(model, small_masks, list(graph.left), places)


class _Narrowed(NamedTuple):
    layer: nn.Module
    rows: Tensor
    columns: Tensor
    """Of its weight, the rows and columns of the wide one."""


def _decay(model: nn.Module, graph: Graph) -> float:
    """What a step of training leaves of the difference between a BatchNorm's constant in eval mode and in training.

    A running mean leaves its distance to a constant by d = 1 - momentum a step, and a running variance its value, by
    whose root the distance is divided: sqrt(d) while the variance is above epsilon, d below. Norms with other momenta
    may stand one behind the other: the slowest counts.
    """
    norms = [model.get_submodule(operation.module) for operation in graph.of(Normed)]
    left = [1 - norm.momentum for norm in norms if isinstance(norm, _BatchNorm) and norm.momentum is not None]
    return max(left, default=1.0) ** 0.5


def _narrowed(module: nn.Module, operation: Weighted, channels: Channels, wired: Tensor, decay: float) -> _Narrowed:
    inputs, outputs = channels.kept[operation.inputs[0]], channels.kept[operation.output]
    weight = module.get_parameter("weight")
    if operation.groups > 1:
        rows, columns = outputs.nonzero()[:, 0], torch.arange(weight.shape[1], device=weight.device)
        groups = int(inputs.unflatten(0, (operation.groups, -1)).any(1).count_nonzero())
        return _Narrowed(cut_layer(module, rows, columns, groups), rows, columns)
    folded = torch.where(inputs, 0.0, channels.constants[operation.inputs[0]].values)
    taps = constant_taps(weight, 1, folded)
    rows, columns = _used(module, wired, inputs, outputs, taps)
    layer = cut_layer(module, rows.nonzero()[:, 0], columns.nonzero()[:, 0])
    constants = _constants(module, taps[:, rows], decay) if bool(taps[:, rows].any()) else None
    reads = None if bool((columns == inputs).all()) else columns[inputs].nonzero()[:, 0]
    places = None if bool((rows == outputs).all()) else _places(rows[outputs])
    if reads is not None or places is not None or constants is not None:
        layer = Narrow(layer, reads, places, constants)
    return _Narrowed(layer, rows.nonzero()[:, 0], columns.nonzero()[:, 0])


def _used(module: nn.Module, wired: Tensor, inputs: Tensor, outputs: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """The output channels that a layer makes and the input channels that it reads, of those that are kept."""
    rows = outputs & ((wired & inputs).any(1) | taps.ne(0).any(2).any(0))
    if module.bias is not None:
        rows = outputs.clone()
    rows = rows if rows.any() else _first(outputs)
    columns = inputs & wired[rows].any(0)
    columns = columns if columns.any() else _first(inputs)
    positions = module.get_parameter("weight")[0, 0].numel()
    spared = int((inputs & ~columns).sum()) * int(rows.sum()) * positions
    if spared < _WORTH * int(columns.sum()):
        columns = inputs
    spared = int((outputs & ~rows).sum()) * int(columns.sum()) * positions
    if spared < _WORTH * int(outputs.sum()):
        rows = outputs
    return rows, columns


def _places(made: Tensor) -> Tensor:
    """For every channel its number among those that are made, and the number after the last for those that are not."""
    return torch.where(made, made.cumsum(0) - 1, made.count_nonzero())


def _first(mask: Tensor) -> Tensor:
    return mask & (mask.cumsum(0) == 1)


def _constants(module: nn.Module, taps: Tensor, decay: float) -> Constants:
    """The layer for a channel of ones, `taps` (2, out, taps) its weights in eval mode and in training."""
    weight = module.get_parameter("weight")
    evaluated, trained = taps.view(2, -1, 1, *weight.shape[2:])
    return Constants(ones_layer(module, trained), (evaluated - trained).to(weight.dtype), weight.new_tensor(decay))
