"""SNIP, GraSP and Fisher against their published definitions, computed another way, in float64."""

import copy

import pytest
import torch
from helpers.cases import assert_close, network, pairs, same
from helpers.criteria import loss_over, moved_statistics
from torch import Tensor, nn

from px_seg import SNIP, Fisher, GraSP, criterion, prunable
from px_seg.pruning import prune


def in_training(net: nn.Module) -> nn.Module:
    """A copy whose BatchNorms normalise by the batch and whose dropout is off."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return net


def gradient(net: nn.Module, batches: list, temperature: float) -> Tensor:
    weights = list(prunable(net).values())
    parts = torch.autograd.grad(loss_over(net, batches, temperature), weights)
    return torch.cat([part.flatten() for part in parts])


def by_central_differences(net: nn.Module, value, step: float) -> dict[str, Tensor]:
    """d value / d log(theta_j) of every weight: theta_j (1 +- step) in turn."""
    found = {}
    for name, weight in prunable(net).items():
        found[name] = torch.empty_like(weight)
        for place in range(weight.numel()):
            flat, before = weight.data.view(-1), weight.data.view(-1)[place].item()
            ends = []
            for sign in (1, -1):
                flat[place] = before * (1 + sign * step)
                ends.append(float(value()))
            flat[place] = before
            found[name].view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return {name: part.detach() for name, part in found.items()}


def test_snip_is_what_the_loss_gains_with_each_weight_switched_on() -> None:
    net, batches = network(), pairs(2, 3)
    copied = in_training(net)
    expected = by_central_differences(copied, lambda: loss_over(copied, batches).detach(), 1e-5)
    assert_close(SNIP().score(net, batches), {name: part.abs() for name, part in expected.items()}, 1e-7)


@pytest.mark.parametrize("temperature", [200.0, 1.0])
def test_grasp_is_half_of_what_the_gradient_loses_with_each_weight(temperature: float) -> None:
    """d|g|**2 / d log(theta_j) = 2 theta_j (Hg)_j, and without the weight |g|**2 falls by it."""
    net, batches = network(), pairs(2, 3)
    scores = GraSP().score(net, batches) if temperature == 200 else GraSP(temperature=1.0).score(net, batches)
    copied = in_training(net)
    norm = lambda: gradient(copied, batches, temperature).square().sum()  # noqa: E731
    expected = {name: part / 2 for name, part in by_central_differences(copied, norm, 1e-5).items()}
    assert_close(scores, expected, 1e-6)
    assert {bool((score < 0).any()) for score in scores.values()} == {True}


def test_grasp_removes_first_what_makes_gradients_grow_when_it_goes() -> None:
    """L = sum_j (theta_j - b_j)**2 / 2 with theta = (1, 1), b = (2, 0).

    g = theta - b = (-1, 1). Without the first weight g = (-2, 1), |g|**2 = 5; without the second
    g = (-1, 0), |g|**2 = 1; both were 2 before. The first goes, as published.
    """
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.data.fill_(1.0)
    batch = torch.eye(2, dtype=torch.float64), torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    rank = GraSP(temperature=1.0, loss=lambda out, target: (out - target).square().sum() / 2)
    assert rank.score(net, [batch])["weight"].tolist() == [[-1.0, 1.0]]
    assert prune(net, [batch], 0.5, rank)["weight"].tolist() == [[False, True]]


def test_fisher_is_the_mean_of_squared_gradients_sample_by_sample() -> None:
    net, batches = network(), pairs(2, 3)
    copied = copy.deepcopy(net).eval()
    total = {name: torch.zeros_like(weight) for name, weight in prunable(copied).items()}
    for images, labels in batches:
        for sample in range(len(images)):
            copied.zero_grad()
            out = copied(images[sample][None])[0].permute(1, 2, 0)
            known = labels[sample] != 255
            nn.functional.cross_entropy(out[known], labels[sample][known]).backward()
            for name, weight in prunable(copied).items():
                total[name] += weight.grad**2 / 5
    expected = {name: (part * prunable(copied)[name] ** 2).detach() for name, part in total.items()}
    assert_close(Fisher().score(net, batches), expected, 1e-10)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_snip_and_grasp_normalise_by_the_batch(name: str) -> None:
    net, (batch,) = network(), pairs(4)
    halves = [(batch[0][:2], batch[1][:2]), (batch[0][2:], batch[1][2:])]
    rank = criterion(name)
    assert same(rank.score(net, [batch]), rank.score(moved_statistics(net), [batch]))
    assert same(rank.score(net.train(), [batch]), rank.score(net.eval(), [batch]))
    labels = torch.zeros_like(batch[1])
    one = rank.score(net, [(batch[0], labels)])
    two = rank.score(net, [(x, labels[:2]) for x, _ in halves])
    assert not same(one, {n: part / 2 for n, part in two.items()})


def test_fisher_normalises_by_running_statistics() -> None:
    net, (batch,) = network(), pairs(4)
    halves = [(batch[0][:2], batch[1][:2]), (batch[0][2:], batch[1][2:])]
    assert same(Fisher().score(net, [batch]), Fisher().score(net.train(), halves))
    assert not same(Fisher().score(net, [batch]), Fisher().score(moved_statistics(net), [batch]))
