"""A network under masks beside the one that was made smaller."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from px_seg.pruning.outputs import leaves


def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    # Stochastic depth draws a number a sample.
    torch.manual_seed(1)
    return list(leaves(copy.deepcopy(model)(x)))


def assert_same(one: nn.Module, other: nn.Module, x: Tensor, tolerance: float = 1e-12) -> None:
    for training in (False, True):
        # A batch's statistics divide by small variances again and again.
        limit = tolerance * (1000 if training else 1)
        with torch.no_grad():
            pairs = zip(outputs(one.train(training), x), outputs(other.train(training), x), strict=True)
        for a, b in pairs:
            assert (a - b).norm() <= limit * a.norm()
