"""A small network with what real ones have, labelled batches for it, and how scores of it are compared."""

import copy

import torch
from torch import Tensor, nn

from px_seg.pruning import CRITERIA, Masks

WITH_DATA = [name for name, kind in CRITERIA.items() if kind.needs_data]
WITH_LOSS = ["snip", "iterative_snip", "grasp", "fisher"]


def network() -> nn.Module:
    """Dense outputs, as a segmentation network has; dropout would show if it were on."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Conv2d(4, 3, 1),
    ).double()
    for norm in (net[1], net[5]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net


def pairs(*sizes: int, side: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for size in sizes:
        labels = torch.randint(0, 3, (size, side, side), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
        batches.append((torch.randn(size, 2, side, side, generator=generator, dtype=torch.float64), labels))
    return batches


def assert_close(scores: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    assert scores.keys() == expected.keys()
    largest = max(float(part.abs().max()) for part in expected.values())
    assert largest > 0
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=rtol, atol=rtol * largest)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.allclose(first[name], second[name], rtol=1e-9) for name in first)


def by_training_mode(net: nn.Module, batches: list, masks: Masks) -> nn.Module:
    """A copy whose BatchNorms have seen the batches: momentum None averages them all alike."""
    net = copy.deepcopy(net).eval()
    masks.apply(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for images, _ in batches:
            net(images)
    return net.eval()
