"""Every criterion against its published definition, computed another way, in float64."""

import copy
import math

import pytest
import torch
from helpers.cases import WITH_DATA, assert_close, network, pairs, same
from helpers.networks import LINEAR_PIECES, Drawn
from helpers.reference import Reference
from torch import Tensor, nn

from px_seg import NTKSAP, SNIP, Fisher, GraSP, InputError, Magnitude, Masks, SynFlow, SynFlowL2, criterion, prunable
from px_seg.pruning import IMP, prune
from px_seg.pruning.masked_network import MaskedNetwork


def in_training(net: nn.Module) -> nn.Module:
    """A copy whose BatchNorms normalise by the batch and whose dropout is off."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return net


def loss_over(net: nn.Module, batches: list, temperature: float = 1.0) -> Tensor:
    return sum(nn.CrossEntropyLoss(ignore_index=255)(net(x) / temperature, y) for x, y in batches)


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


def test_imp_is_the_lottery_ticket_loop_written_out() -> None:
    """Train from the same start each time, prune the smallest of those left, rewind."""
    net, starts = network(), []

    def train(model: nn.Module, masks: Masks) -> None:
        starts.append(copy.deepcopy(model.state_dict()))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with masks.hold(model, optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                loss_over(model.train(), pairs(4)).backward()
                optimizer.step()

    rank = IMP(train=train)
    torch.manual_seed(0)
    masks = prune(net, (), 1 - 0.8**3, rank)
    assert all(all(torch.equal(v, net.state_dict()[n]) for n, v in start.items()) for start in starts)
    assert len(starts) == 3

    torch.manual_seed(0)
    live = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    total = sum(mask.numel() for mask in live.values())
    for number in (1, 2, 3):
        ticket = copy.deepcopy(net)
        train(ticket, Masks(live))
        sizes = torch.cat([w.detach().abs().flatten() for w in prunable(ticket).values()])
        flat = torch.cat([mask.flatten() for mask in live.values()])
        order = sizes.masked_fill(~flat, -1).sort(descending=True).indices[: round(0.8**number * total)]
        flat = torch.zeros_like(flat).index_fill(0, order, True)
        live = {
            n: p.view(live[n].shape) for n, p in zip(live, flat.split([m.numel() for m in live.values()]), strict=True)
        }
    assert masks == Masks(live)


@pytest.mark.parametrize(
    ("sparsity", "rounds"), [(0.2, 1), (0.36, 2), (0.37, 3), (1 - 0.8**9, 9), (0.99, 21), (0.01, 1)]
)
def test_imp_keeps_at_least_four_fifths_in_a_round(sparsity: float, rounds: int) -> None:
    assert IMP().rounds_to(sparsity) == rounds
    with pytest.raises(InputError, match=r"IMP\(train=...\)"):
        prune(network(), (), sparsity, IMP())


@pytest.mark.parametrize("name", WITH_DATA)
def test_the_order_of_the_batches_does_not_matter(name: str) -> None:
    net, batches = network(), pairs(2, 3, 2)
    assert_close(criterion(name).score(net, batches), criterion(name).score(net, batches[::-1]), 1e-9)


def moved_statistics(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 1
            module.running_var *= 3
    return net


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
