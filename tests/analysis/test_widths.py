"""Flow, widths and paths, against networks small enough to write out."""

import itertools
import math

import pytest
import torch
from helpers.networks import LINEAR_PIECES, Drawn, Residual, drawn, some_masks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from px_seg import PX, InputError, Masks, build_classifier, prunable, prune
from px_seg.analysis import effective_paths, flow, widths

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)


def block() -> nn.Sequential:
    """Stem, a residual block with a convolution as its shortcut, head: all 1x1, two channels."""
    branch = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False))
    shortcut = nn.Conv2d(2, 2, 1, bias=False)
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), Residual(branch, shortcut), nn.Conv2d(2, 1, 1, bias=False))
    for weight in prunable(net).values():
        # All gates are open.
        weight.data.abs_()
    return net


def test_flow_through_branch_and_shortcut_written_out(generator) -> None:
    """R splits at the sum into the paths by the branch and those by the shortcut, h of each summed by hand."""
    net = block().double()
    x = torch.rand(3, 1, 1, 1, dtype=torch.float64, generator=generator)
    stem, first, second, side, head = (weight.detach().flatten(1).square() for weight in prunable(net).values())
    by_branch, by_side = float((head @ second @ first @ stem).sum()), float((head @ side @ stem).sum())
    found = flow(net, [x])
    share = by_branch / (by_branch + by_side)
    assert found.sums["1"] == pytest.approx((share, 1 - share), rel=1e-12)
    assert found.layers["1.body.0.weight"] == pytest.approx(share, rel=1e-12)
    assert found.layers["1.body.2.weight"] == pytest.approx(share, rel=1e-12)
    assert found.layers["1.shortcut.weight"] == pytest.approx(1 - share, rel=1e-12)
    assert (found.layers["0.weight"], found.layers["2.weight"]) == pytest.approx((1, 1), rel=1e-12)


def test_flow_of_the_input_itself_past_a_branch() -> None:
    """x + conv(x): no weight has passed the shortcut, which brings as much of R nevertheless."""
    net = nn.Sequential(
        Residual(nn.Conv2d(1, 1, 1, bias=False), nn.Identity()), nn.Conv2d(1, 1, 1, bias=False)
    ).double()
    weight = float(net[0].body.weight.data.abs_())
    share = weight**2 / (1 + weight**2)
    found = flow(net, [torch.ones(1, 1, 2, 2, dtype=torch.float64)])
    assert found.sums["0"] == pytest.approx((share, 1 - share), rel=1e-12)


def test_any_element_of_a_max_pool_may_be_on_a_path() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 1, 1))
    assert effective_paths(net, Masks.ones(net), (3, 2, 2)).weights == {"0.weight": 108, "2.weight": 4}
    for pool in (nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(2, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)):
        net[1] = pool
        assert effective_paths(net, Masks.ones(net), (3, 6, 6)).weights["0.weight"] == 108
    vgg = build_classifier("vgg11_bn", 4, None)
    found = effective_paths(vgg, Masks.ones(vgg), (3, 64, 64))
    assert found.weights == {name: weight.numel() for name, weight in prunable(vgg).items()}


@PROPERTY
@given(net=drawn(LINEAR_PIECES), density=st.sampled_from([1.0, 0.7]), seed=st.integers(0, 99))
def test_what_enters_a_sum_is_what_scores_say(net: Drawn, density: float, seed: int) -> None:
    """The flow of a layer is its scores' sum, and the two sides of a sum bring no more than R."""
    x = [torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))]
    masks = some_masks(net, density, seed)
    try:
        scores = PX().score(net, x, masks)
    except InputError:
        assume(False)
    found = flow(net, x, masks)
    whole = float(scores["stem.weight"].sum())
    for name, score in scores.items():
        assert found.layers[name] == pytest.approx(float(score.sum()) / whole, rel=1e-9)
    for branch, shortcut in found.sums.values():
        assert 0 <= branch <= 1 + 1e-9
        assert branch + shortcut == pytest.approx(1, rel=1e-9)


def test_paths_are_counted_one_by_one() -> None:
    net = block()
    masks = {
        "0.weight": torch.tensor([1, 1]),
        "1.body.0.weight": torch.tensor([[1, 0], [1, 1]]),
        "1.body.2.weight": torch.tensor([[1, 0], [0, 1]]),
        "1.shortcut.weight": torch.tensor([[0, 0], [0, 1]]),
        "2.weight": torch.tensor([[1, 1]]),
    }
    a, b, c, d, e = (mask.reshape(-1, 2 if name != "0.weight" else 1) for name, mask in masks.items())
    count = sum(int(a[i, 0] * b[j, i] * c[k, j] * e[0, k]) for i, j, k in itertools.product(range(2), repeat=3)) + sum(
        int(a[i, 0] * d[k, i] * e[0, k]) for i, k in itertools.product(range(2), repeat=2)
    )
    shapes = {name: weight.shape for name, weight in prunable(net).items()}
    found = effective_paths(net, {n: m.bool().reshape(shapes[n]) for n, m in masks.items()}, (1, 1, 1))
    assert 10**found.log10_paths == pytest.approx(count, rel=1e-12)
    assert found.channels["1.shortcut.weight"] == 1
    assert found.channel_share == 8 / 9


def test_what_a_path_passes_is_live_and_what_none_does_is_named() -> None:
    """The branch's second layer reads only its first layer's dead channel: branch and its kept weights are idle."""
    net = block()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    masks["1.body.0.weight"][0] = False
    masks["1.body.2.weight"][:, 1] = False
    found = widths(net, [torch.ones(1, 1, 2, 2)], masks)
    assert found.dead == ("1.body",)
    assert found.layers["1.body.0"] == (0.5, 0.0, 2, 0, 0.0)
    assert found.layers["0"][:4] == (1.0, 1.0, 2, 2)
    assert found.layers["1.shortcut"].flow == pytest.approx(1)
    assert found.sums["1"] == pytest.approx((0, 1))
    assert found.sparsity == pytest.approx(4 / 16)
    assert found.effective_sparsity == pytest.approx(8 / 16)
    assert found.live_channels == pytest.approx(5 / 9)
    # Four pixels, each with 2 x 2 paths by the shortcut.
    assert 10**found.log10_paths == pytest.approx(16)


def test_gates_carry_no_paths_and_are_not_cut_off() -> None:
    """Squeeze-and-excitation multiplies features: its weights have an effect, and its channels are no nodes."""
    net = Drawn(["squeeze", "relu"], 0, dense=True)
    masks = Masks.ones(net)
    found = widths(net, [torch.ones(1, 3, 8, 8)], masks)
    assert list(found.layers) == ["stem", "head"]
    assert (found.dead, found.effective_sparsity, found.live_channels) == ((), 0, 1)
    assert effective_paths(net, masks, (3, 8, 8)).weights["body.0.up.weight"] == net.body[0].up.weight.numel()
    cut = Masks({name: torch.zeros_like(mask) if name == "stem.weight" else mask for name, mask in masks.items()})
    # Where nothing is left to multiply, gates are of no use either.
    assert set(effective_paths(net, cut, (3, 8, 8)).weights.values()) == {0}


def test_a_network_that_is_cut_has_no_paths(generator) -> None:
    net = block()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    masks["2.weight"][:] = False
    found = widths(net, [torch.ones(1, 1, 2, 2)], masks)
    assert (found.log10_paths, found.live_channels, found.effective_sparsity) == (-math.inf, 0, 1)
    assert found.dead == ("0", "1", "2")
    assert found.sums == {"1": (0, 0)}
    assert {layer.flow for layer in found.layers.values()} == {0}


def test_px_starves_branches_and_conservation_does_not(generator) -> None:
    """METHOD, section 5, on a ResNet: with the model as it was afterwards."""
    torch.manual_seed(0)
    net = build_classifier("resnet18", 4, None)
    x = [torch.randn(2, 3, 32, 32, generator=generator)]
    net.train()
    found = {}
    for conserve in (0.0, 1.0):
        masks = prune(net, x, 0.98, PX(conserve=conserve), "encoder", 10)
        found[conserve] = widths(net, x, masks)
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert list(found[0.0].sums) == [f"encoder.layer{n}.{m}" for n in range(1, 5) for m in range(2)]
    assert found[0.0].sums["encoder.layer4.1"].branch == 0
    assert "encoder.layer4.1" in found[0.0].dead
    assert found[1.0].sums["encoder.layer4.1"].branch > 1e-3
    assert found[1.0].dead == ()


def test_every_channel_of_a_dense_network_is_on_a_path() -> None:
    net = build_classifier("resnet18", 4, None)
    found = effective_paths(net, Masks.ones(net), (3, 64, 64))
    assert found.channel_share == 1
    assert found.weights == {name: weight.numel() for name, weight in prunable(net).items()}
