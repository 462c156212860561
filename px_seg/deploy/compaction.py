"""A pruned network as a smaller dense one."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.deploy.channels import Channels, constant_taps, needed_channels
from px_seg.deploy.graph import Graph, Mapped, Normed, Weighted, record
from px_seg.models.narrow import Constants, Narrow, cut_channels, cut_layer, ones_layer, with_layer
from px_seg.pruning.masks import check_fit

_WORTH = 64
"""Multiplications for one element that is copied, from which on a layer reads or makes fewer channels than it could."""


class Compaction(NamedTuple):
    """A smaller network, and what belongs to it."""

    model: nn.Module
    masks: dict[str, Tensor]
    """Of its weights, by their new names, for the weights that were masked before."""
    left: list[str]
    """What could not be shrunk, in words."""


def compact(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None, shape: Sequence[int] = (3, 64, 64)
) -> nn.Module:
    """The same function in smaller dense tensors: a new model, which has no channel that nothing needs.

    `masks` by parameter name; None takes the zeros among the weights for pruned. `shape` (C, H, W) is that of an image
    that the model takes; the new one takes others as well. Both return the same in eval mode and in training, where
    dropout is off, up to rounding. The model comes back as it was.

    Raises InputError for masks that do not fit, and UnsupportedOperation for a network whose operations cannot be
    followed at all; what is merely not known to be safe to shrink stays as it is.
    """
    return shrink(model, masks, shape).model


def shrink(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None, shape: Sequence[int] = (3, 64, 64)
) -> Compaction:
    """What `compact` does, with masks for the smaller network and what was left as it is."""
    parameters = dict(model.named_parameters())
    check_fit(masks or {}, parameters)
    small = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if masks is not None and name in masks:
                parameter.mul_(masks[name].to(parameter))
        like = next(small.parameters())
        sample = torch.zeros(2, *shape, dtype=like.dtype, device=like.device)
        graph = record(small, sample)
        names = {operation.module for operation in graph.of(Weighted)}
        weights = {name: small.get_submodule(name).get_parameter("weight") for name in names}
        live = {name: _live(name, weight, masks) for name, weight in weights.items()}
        channels = needed_channels(small, graph, weights, live)
        found = _shrunk(small, graph, channels, live, masks or {})
    return found


def _live(name: str, weight: Tensor, masks: Mapping[str, Tensor] | None) -> Tensor:
    """Which weights of a layer may be other than 0; one that is kept and happens to be 0 need not stay so."""
    if masks is None:
        return weight != 0
    mask = masks.get(_weight(name))
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device).bool()


def _weight(module: str) -> str:
    return f"{module}.weight" if module else "weight"


def _shrunk(
    model: nn.Module, graph: Graph, channels: Channels, live: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> Compaction:
    """The model itself, its layers replaced."""
    small_masks = {name: mask for name, mask in masks.items()}
    for operation in (*graph.of(Normed), *graph.of(Mapped)):
        if operation.module is not None and operation.module not in graph.pinned:
            kept = channels.kept[operation.output]
            cut_channels(model.get_submodule(operation.module), kept.nonzero()[:, 0])
    for operation in graph.of(Weighted):
        if operation.module in graph.pinned:
            continue
        narrowed = _narrowed(model.get_submodule(operation.module), operation, channels, live[operation.module])
        mask = small_masks.pop(_weight(operation.module), None)
        model = with_layer(model, operation.module, narrowed.layer)
        if mask is not None:
            name = f"{operation.module}.layer" if isinstance(narrowed.layer, Narrow) else operation.module
            small_masks[_weight(name)] = mask[narrowed.rows.to(mask.device)][:, narrowed.columns.to(mask.device)]
    return Compaction(model, small_masks, list(graph.left))


class _Narrowed(NamedTuple):
    layer: nn.Module
    rows: Tensor
    columns: Tensor
    """Of its weight, the rows and columns of the wide one."""


def _narrowed(module: nn.Module, operation: Weighted, channels: Channels, live: Tensor) -> _Narrowed:
    inputs, outputs = channels.kept[operation.inputs[0]], channels.kept[operation.output]
    weight = module.get_parameter("weight")
    if operation.groups > 1:
        rows, columns = outputs.nonzero()[:, 0], torch.arange(weight.shape[1], device=weight.device)
        groups = int(inputs.unflatten(0, (operation.groups, -1)).any(1).count_nonzero())
        return _Narrowed(cut_layer(module, rows, columns, groups), rows, columns)
    folded = torch.where(inputs, 0.0, channels.constants[operation.inputs[0]].values)
    taps = constant_taps(weight, 1, folded)
    wired = live.reshape(*live.shape[:2], -1).any(2)
    rows, columns = _used(module, wired, inputs, outputs, taps)
    layer = cut_layer(module, rows.nonzero()[:, 0], columns.nonzero()[:, 0])
    constants = _constants(module, taps[:, rows]) if bool(taps[:, rows].any()) else None
    reads = None if bool((columns == inputs).all()) else columns[inputs].nonzero()[:, 0]
    makes = None if bool((rows == outputs).all()) else rows[outputs].nonzero()[:, 0]
    if reads is not None or makes is not None or constants is not None:
        layer = Narrow(layer, int(outputs.count_nonzero()), reads, makes, constants)
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


def _first(mask: Tensor) -> Tensor:
    return mask & (mask.cumsum(0) == 1)


def _constants(module: nn.Module, taps: Tensor) -> Constants:
    """The layer for a channel of ones, `taps` (2, out, taps) its weights in eval mode and in training."""
    weight = module.get_parameter("weight")
    evaluated, trained = taps.view(2, -1, 1, *weight.shape[2:])
    return Constants(ones_layer(module, trained), (evaluated - trained).to(weight.dtype))
