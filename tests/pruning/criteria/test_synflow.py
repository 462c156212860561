"""SynFlow and its square, against the flow without each weight."""

import copy

import pytest
import torch
from helpers.cases import assert_close, network, pairs, same
from helpers.networks import LINEAR_PIECES, Drawn
from helpers.reference import Reference
from torch import Tensor, nn

from px_seg import PX, InputError, Magnitude, SynFlow, SynFlowL2, criterion, prunable
from px_seg.pruning import prune
from px_seg.pruning.paths import bound
from px_seg.pruning.paths.scaled import Scaled


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("rank", "power"), [(SynFlow(), 1), (SynFlowL2(), 2)])
def test_synflow_is_what_the_flow_loses_without_each_weight(rank, power: int, seed: int) -> None:
    """R is linear in each |theta| (or its square), so leaving the weight out is exact."""
    pieces = [LINEAR_PIECES[(3 * seed + place) % len(LINEAR_PIECES)] for place in range(5)]
    pieces = [piece for piece in pieces if piece != "max"]
    net = Drawn(pieces, seed, dense=bool(seed % 2))
    batches = [torch.randn(2, 3, 8, 8, dtype=torch.float64)]
    masks = prune(net, (), 0.3, Magnitude())
    reference = Reference(net, batches, masks, power=power)
    reference.g = [torch.ones_like(g) for g in reference.g]
    whole = reference.bound()
    for name, score in rank.score(net, batches, masks).items():
        for place in [(0,) * score.dim(), tuple(side - 1 for side in score.shape)]:
            expected = whole - reference.bound(name, place)
            torch.testing.assert_close(score[place], expected, rtol=1e-9, atol=1e-12 * float(whole))


def test_synflow_is_the_gradient_of_the_network_made_positive() -> None:
    """A fresh network as published: |theta|, no biases, ones in, ReLUs left in, BatchNorm in eval mode, R backward."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    plain = copy.deepcopy(net).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.abs_()
        plain[0].bias.zero_()
        plain[4].bias.zero_()
    plain(torch.ones(1, 2, 4, 4, dtype=torch.float64)).sum().backward()
    expected = {name: (weight * weight.grad).detach() for name, weight in prunable(plain).items()}
    assert_close(SynFlow().score(net, [torch.randn(2, 2, 4, 4, dtype=torch.float64)]), expected, 1e-12)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * -0.5


def test_a_constant_factor_counts_in_synflow_by_its_size() -> None:
    layer = nn.Linear(3, 2, bias=False).double()
    net, x = nn.Sequential(layer, Halved()), [torch.randn(2, 3, dtype=torch.float64)]
    torch.testing.assert_close(SynFlow().score(net, x)["0.weight"], 0.5 * layer.weight.detach().abs())
    torch.testing.assert_close(SynFlowL2().score(net, x)["0.weight"], 0.25 * layer.weight.detach().square())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["synflow", "synflow_l2"])
def test_synflow_does_not_overflow_on_resnet50(name: str) -> None:
    from px_seg import build_segmenter

    torch.manual_seed(0)
    net = build_segmenter("resnet50", 21, "none", 8)
    x = [torch.ones(1, 3, 64, 64)]
    single = criterion(name).score(net, x, scope="encoder")
    double = criterion(name).score(net.double(), [x[0].double()], scope="encoder")
    ratios = [(single[n].double() / double[n])[double[n] > 0] for n in single]
    ratios = torch.cat([ratio / ratios[0].median() for ratio in ratios])
    assert all(score.isfinite().all() for score in single.values())
    assert float((ratios - 1).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["synflow", "synflow_l2"])
def test_synflow_multiplies_by_running_statistics_and_drops_shifts(name: str) -> None:
    net, batches = network(), pairs(2)
    before = criterion(name).score(net, batches)
    net[1].running_mean += 1
    net[1].bias.data += 1
    assert same(before, criterion(name).score(net, batches))
    net[1].running_var.copy_((net[1].running_var + net[1].eps) * 4 - net[1].eps)
    factor = 0.5 if name == "synflow" else 0.25
    assert same({n: part * factor for n, part in before.items()}, criterion(name).score(net, batches))


@pytest.mark.parametrize("bn", ["batch", "released"])
def test_synflow_l2_is_px_with_g_set_to_one_in_the_released_readings_too(bn: str, monkeypatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = SynFlowL2(bn=bn).score(net.double(), [x])
    assert not same(expected, PX(bn=bn).score(net, [x]))

    def ones(*arguments, **_):
        return [Scaled.of(torch.ones_like(part.values)) for part in path_activations(*arguments)]

    path_activations = bound.path_activations
    monkeypatch.setattr(bound, "path_activations", ones)
    assert same(expected, PX(bn=bn).score(net, [x]))
    with pytest.raises(InputError, match="SynFlowL2 has no bn='own': choose one of fold, batch, released"):
        criterion("synflow_l2", bn="own")
