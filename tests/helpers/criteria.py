"""How the oracles of criteria compute losses, and change a network."""

import copy

from torch import Tensor, nn


def loss_over(net: nn.Module, batches: list, temperature: float = 1.0) -> Tensor:
    return sum(nn.CrossEntropyLoss(ignore_index=255)(net(x) / temperature, y) for x, y in batches)


def moved_statistics(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 1
            module.running_var *= 3
    return net
