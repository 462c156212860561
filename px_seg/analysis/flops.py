"""Floating-point operations of a network, and those that zero weights leave."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from px_seg.pruning import prunable
from px_seg.pruning.modes import evaluating


class Flops(NamedTuple):
    """Operations of one forward pass over one sample, a multiplication and an addition counting as two."""

    kept: int
    """Those left when a product with a zero weight costs nothing; dense kernels do not save them."""
    total: int
    """Those of the dense network."""


def count_flops(model: nn.Module, weights: Mapping[str, Tensor], shape: Sequence[int]) -> Flops:
    """The operations of `model` on a sample of `shape`, (C, H, W), counted by torch.utils.flop_counter.

    Convolutions, linear layers and matrix products count; norms, activations and interpolation do not. `weights` are
    those whose zeros count, by parameter name. The model comes back as it was.
    """
    counts, total = layer_flops(model, shape)
    # Every weight of a layer is used equally often.
    saved = sum(
        own * (weights[name].numel() - int(weights[name].count_nonzero())) / weights[name].numel()
        for name, own in counts.items()
    )
    return Flops(round(total - saved), total)


def layer_flops(model: nn.Module, shape: Sequence[int]) -> tuple[dict[str, int], int]:
    """The operations of `count_flops` by the name of a layer's weight, 0 where it is not used, and those of all."""
    like = next(model.parameters())
    with FlopCounterMode(display=False) as counter, evaluating(model), torch.no_grad():
        model(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    counts, root = counter.get_flop_counts(), type(model).__name__
    own = {name: sum(counts.get(f"{root}.{name.removesuffix('.weight')}", {}).values()) for name in prunable(model)}
    return own, counter.get_total_flops()
