"""NTK-SAP, against the sensitivity it is the derivative of."""

import copy
import math

import pytest
import torch
from helpers.cases import assert_close, network, pairs, same
from helpers.criteria import moved_statistics
from torch import Tensor, nn

from px_seg import (
    NTKSAP,
    Magnitude,
    prunable,
)
from px_seg.pruning import prune
from px_seg.pruning.masked_network import MaskedNetwork


def calibrated(net: nn.Module, draw, masks: dict[str, Tensor]) -> nn.Module:
    """The network with the drawn weights and plain norms, whose statistics are those of the drawn images."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            module.train()
            module.momentum = 1.0
    set_weights(net, {name: weight * masks[name] for name, weight in draw.weights.items()})
    with torch.no_grad():
        net(draw.images)
    return net.eval()


@torch.no_grad()
def set_weights(net: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        net.get_parameter(name).copy_(weight)


def test_ntksap_is_how_fast_the_sensitivity_changes_with_each_mask() -> None:
    net, batches = network(), pairs(2, 3)
    rank = NTKSAP(seed=3, resamplings=2)
    shapes = [images.shape for images, _ in batches]
    masks = {name: mask.double() for name, mask in prune(net, (), 0.2, Magnitude()).items()}
    kept = int(sum(mask.sum() for mask in masks.values()))
    total = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    draws = list(rank.draws(MaskedNetwork(net), shapes, {}, kept))
    assert len(draws) == 4
    for draw in draws:
        plain = calibrated(net, draw, masks)

        def sensitivity(live: dict[str, Tensor], plain=plain, draw=draw) -> float:
            outputs = []
            for size in (0.0, 0.01):
                set_weights(plain, {n: (w + size * draw.changes[n]) * live[n] for n, w in draw.weights.items()})
                with torch.no_grad():
                    outputs.append(plain(draw.images))
            return float((outputs[0] - outputs[1]).square().sum())

        for name in masks:
            for place in range(masks[name].numel()):
                moved = {n: mask.clone() for n, mask in masks.items()}
                ends = []
                for step in (1e-5, -1e-5):
                    moved[name].view(-1)[place] = masks[name].view(-1)[place] + step
                    ends.append(sensitivity(moved))
                total[name].view(-1)[place] += (ends[0] - ends[1]) / 2e-5
    expected = {name: part.abs() * masks[name] for name, part in total.items()}
    assert_close(rank.score(net, batches, masks), expected, 1e-5)


def test_ntksap_of_a_linear_layer_is_in_expectation_the_energy_of_its_inputs() -> None:
    """f = sum_ij theta_ij m_ij x_j: J = e**2 sum m_ij**2 x_j**2 in expectation, its derivative 2 e**2 m_ij x_j**2."""
    layer = nn.Linear(4, 3, bias=False).double()
    images = [torch.zeros(50, 4, dtype=torch.float64)] * 400
    score = NTKSAP(perturbation=0.1).score(layer, images)["weight"]
    assert float((score / (2 * 0.1**2 * 20_000) - 1).abs().max()) < 0.3
    assert abs(float(score.mean()) / (2 * 0.1**2 * 20_000) - 1) < 0.1


def test_ntksap_draws_afresh_in_every_round_and_for_every_batch() -> None:
    net = MaskedNetwork(network())
    rank, shape = NTKSAP(), torch.Size((2, 2, 5, 5))
    draws = [*rank.draws(net, [shape, shape], {}, 100), *rank.draws(net, [shape], {}, 99)]
    draws += [*rank.draws(net, [shape], {shape: 1}, 100)]
    images = [draw.images for draw in draws]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(images[1], images[3])
    weight = torch.cat([draw.weights["4.weight"].flatten() for draw in draws])
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 18), rel=0.2)


def test_ntksap_knows_nothing_of_the_networks_own_norms_and_weights() -> None:
    net, batches = network(), pairs(3)
    other = moved_statistics(net)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    for weight in prunable(other).values():
        weight.data.normal_()
    assert same(NTKSAP().score(net, batches), NTKSAP().score(other, batches))


def test_outside_its_scope_ntksap_leaves_the_network_as_it_is() -> None:
    whole, batches = network(), pairs(3)
    net = nn.Sequential(whole[:4], whole[4:])
    before = NTKSAP().score(net, batches, scope="0")
    net[0][1].weight.data += 1
    assert same(before, NTKSAP().score(net, batches, scope="0"))
    net[1][1].weight.data += 1
    assert not same(before, NTKSAP().score(net, batches, scope="0"))


def test_norms_that_share_their_parameters_are_plain_together() -> None:
    net = network()
    net[5].weight, net[5].bias = net[1].weight, net[1].bias
    assert NTKSAP().score(net, pairs(2)).keys() == prunable(net).keys()
