"""px_paths against what it is defined to be: leave-one-out, enumerated paths, SynFlow-L2, and the bound above it."""

import itertools
import math
import random

import pytest
import torch
from helpers.networks import PIECES, Drawn, drawn, images, some_masks
from helpers.reference import Reference
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from px_seg import PX, InputError, PXPaths, SynFlowL2
from px_seg.models import build_segmenter
from px_seg.pruning.paths.bound import path_bound
from px_seg.pruning.paths.gated import gated_total

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def check_against_the_reference(net: Drawn, density: float, seed: int) -> None:
    x, masks = images(seed, 2, 1), some_masks(net, density, seed)
    reference = Reference(net, x, masks)
    total = reference.values()
    if total == 0:
        with pytest.raises(InputError, match="no path from the input to the output is left"):
            PXPaths().score(net, x, masks)
        reject()
    scores = PXPaths().score(net, x, masks)
    rng = random.Random(seed)
    for name, score in scores.items():
        assert (score >= 0).all()
        for _ in range(3):
            place = tuple(rng.randrange(side) for side in score.shape)
            lost = total - reference.values(name, place)
            torch.testing.assert_close(score[place], lost, rtol=1e-9, atol=1e-13 * total.item())
    # What every path crosses carries it all.
    for name in ("stem.weight", "head.weight"):
        torch.testing.assert_close(scores[name].sum(), total, rtol=1e-12, atol=0)


@pytest.mark.parametrize("density", [1.0, 0.8])
@pytest.mark.parametrize("piece", PIECES)
def test_scores_are_what_the_paths_lose_without_the_weight(piece: str, density: float) -> None:
    for dense in (True, False):
        check_against_the_reference(Drawn([piece, "leaky", piece, "conv", piece], 0, dense), density, 0)


@PROPERTY
@given(net=drawn(PIECES), density=st.sampled_from([1.0, 0.7]), seed=st.integers(0, 99))
def test_scores_are_so_in_any_order_of_the_pieces(net: Drawn, density: float, seed: int) -> None:
    check_against_the_reference(net, density, seed)


def test_scores_equal_a_sum_over_enumerated_paths(generator) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    net = net.double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    first, second, third = (net[i].weight.detach() for i in (0, 2, 4))
    scores = PXPaths().score(net, [x])

    open_1 = x @ first.T > 0
    open_2 = (x @ first.T).relu() @ second.T > 0
    expected = {name: torch.zeros_like(score) for name, score in scores.items()}
    for s, a, b, k in itertools.product(range(3), range(4), range(3), range(2)):
        value = (first[a, s] * second[b, a] * third[k, b]) ** 2
        value = (value * (open_1[:, a] & open_2[:, b]) * x[:, s] ** 2).sum()
        for name, place in (("0.weight", (a, s)), ("2.weight", (b, a)), ("4.weight", (k, b))):
            expected[name][place] += value
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-12, atol=0)


def test_on_ones_with_all_gates_open_it_is_synflow_l2() -> None:
    net = Drawn(["conv", "relu", "residual", "grouped", "average", "concat", "upsample"], 1, dense=True).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
            if module.bias is not None:
                module.bias.data.abs_()
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.abs_()
            module.bias.data.abs_()
            module.running_mean.zero_()
    ones = [torch.ones(1, 3, 9, 8, dtype=torch.float64)]
    paths, flow = PXPaths().score(net, ones), SynFlowL2().score(net, ones)
    for name, score in paths.items():
        torch.testing.assert_close(score, flow[name], rtol=1e-12, atol=0)


UNWEIGHTED = ("conv", "strided", "dilated", "grouped", "depthwise", "norm", "relu", "leaky", "residual", "concat")


@PROPERTY
@given(net=drawn(UNWEIGHTED), seed=st.integers(0, 99))
def test_the_bound_of_px_lets_go_of_the_gates_and_is_never_lower(net: Drawn, seed: int) -> None:
    """sum_p v_p**2 a_p x**2 <= (sum_p v_p**2) (sum_p a_p x**2), output by output, where nothing averages."""
    net, x = nn.Sequential(net.stem, net.body).eval(), images(seed, 2)
    try:
        paths, bound = gated_total(net, x), path_bound(net, x)
    except InputError:
        reject()
    assert math.ldexp(float(paths.total), paths.exponent) <= math.ldexp(float(bound.total), bound.exponent) * (1 + 1e-9)


def test_an_average_can_put_the_paths_above_the_bound() -> None:
    """A path's share of a mean enters each of R's two sums, and their product twice."""
    first, last = nn.Conv1d(1, 1, 2, padding=1, bias=False), nn.Linear(1, 1, bias=False)
    net = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), last).double()
    first.weight.data = torch.tensor([[[-0.1, 1.0]]], dtype=torch.float64)
    last.weight.data.fill_(1)
    x = [torch.ones(1, 1, 1, dtype=torch.float64)]
    totals = [total(net, x) for total in (gated_total, path_bound)]
    assert [math.ldexp(float(t.total), t.exponent) for t in totals] == pytest.approx([0.5, 0.2525])


def test_data_counts_inside_the_network() -> None:
    """Two sets of images, and scores of an inner layer that are no multiple of each other; PX's are."""
    net = Drawn(["conv", "relu", "conv"], 0, dense=False).eval()
    sets = images(0, 2), images(1, 2)
    spread = {}
    for kind in (PX, PXPaths):
        one, other = (kind().score(net, x)["body.0.weight"] for x in sets)
        spread[kind] = float((one / other).std() / (one / other).mean())
    assert spread[PX] < 1e-9
    assert spread[PXPaths] > 0.01


@pytest.mark.slow
def test_float32_does_not_overflow_and_is_close_to_float64() -> None:
    torch.manual_seed(0)
    model = build_segmenter("resnet50", weights=None)
    x = [torch.randn(2, 3, 32, 32)]
    single = PXPaths().score(model, x, scope="encoder")
    double = PXPaths().score(model.double(), [part.double() for part in x], scope="encoder")
    for name, score in single.items():
        assert score.isfinite().all()
        assert float((score.double() - double[name]).abs().sum() / double[name].sum()) < 1e-3, name


def test_only_the_stream_is_kept_for_the_backward_pass() -> None:
    """Parameters that could be trained do not make the true network's activations part of the graph."""
    kept = []
    for trained in (True, False):
        net = Drawn(["conv", "norm", "relu", "prelu", "squeeze"], 0, dense=True).eval().requires_grad_(trained)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.nbytes), t)[1], lambda t: t):
            PXPaths().score(net, images(0, 2))
        kept.append(sum(sizes))
    assert kept[0] == kept[1] > 0


def test_a_batch_without_an_open_path_adds_nothing() -> None:
    net = Drawn(["relu"], 0, dense=False).eval()
    net.stem.bias.data.zero_()
    (x,) = images(0, 2)
    expected = PXPaths().score(net, [x])
    for order in ([torch.zeros_like(x), x], [x, torch.zeros_like(x)]):
        for name, score in PXPaths().score(net, order).items():
            torch.testing.assert_close(score, expected[name], rtol=1e-12, atol=0)


def test_samples_of_several_shapes_and_no_samples_are_refused() -> None:
    net = nn.Conv2d(3, 3, 1)
    for batches, message in (([torch.randn(1, 3, 8, 8), torch.randn(1, 3, 9, 8)], "one shape"), ([], "one batch")):
        with pytest.raises(InputError, match=message):
            PXPaths().score(net, batches)
    with pytest.raises(InputError, match="not finite"):
        PXPaths().score(net, [torch.full((1, 3, 8, 8), torch.nan)])
