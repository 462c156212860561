"""The trace bound, against torch.func and against sums over paths."""

import itertools

import pytest
import torch
from helpers.networks import LINEAR_PIECES, Body, Drawn, drawn, some_masks
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from px_seg import PX, InputError, prunable
from px_seg.analysis import agreement, ntk_trace, ntk_trace_bound

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def without_shifts(net: Drawn) -> Drawn:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    return net


# A ReLU in place after another is a network that autograd refuses, which the exact trace needs.
TRAINABLE = tuple(piece for piece in LINEAR_PIECES if piece != "relu_")


@PROPERTY
@given(net=drawn(TRAINABLE), density=st.sampled_from([1.0, 0.7]), seed=st.integers(0, 99))
def test_the_trace_never_exceeds_the_bound(net: Drawn, density: float, seed: int) -> None:
    """With biases as paths for a network that has them, and as PX reads it for one that has none."""
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    masks = some_masks(net, density, seed)
    try:
        bound = ntk_trace_bound(net, [x], masks, biases=True)
        assert 0 <= ntk_trace(net, [x[:1], x[1:]], masks) <= bound * (1 + 1e-12)
        without_shifts(net)
        bound = ntk_trace_bound(net, [x], masks)
    except InputError:
        assume(False)  # all gates shut
    assert ntk_trace(net, [x], masks) <= bound * (1 + 1e-12)
    assert bound <= ntk_trace_bound(net, [x], masks, biases=True) * (1 + 1e-12)


def test_trace_and_bound_written_out_path_by_path(generator) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    masks = some_masks(net, 0.7, 1)
    first, second = (net[i].weight.detach() * masks[f"{i}.weight"] for i in (0, 2))
    live = masks["0.weight"], masks["2.weight"]
    opened = x @ first.T > 0
    bound = trace = 0.0
    for sample, k in itertools.product(range(5), range(2)):
        alive = [(s, a) for s, a in itertools.product(range(3), range(4)) if live[0][a, s] and live[1][k, a]]
        g = sum(opened[sample, a] * x[sample, s] ** 2 for s, a in alive)
        bound += g * sum(second[k, a] ** 2 + first[a, s] ** 2 for s, a in alive)
        for s, a in itertools.product(range(3), range(4)):
            trace += live[0][a, s] * (second[k, a] * opened[sample, a] * x[sample, s]) ** 2
        for a in range(4):
            trace += live[1][k, a] * ((x[sample] @ first[a]) * opened[sample, a]) ** 2
    assert ntk_trace_bound(net, [x], masks) == pytest.approx(float(bound), rel=1e-12)
    assert ntk_trace(net, [x], masks) == pytest.approx(float(trace), rel=1e-12)


def test_the_bound_is_the_scores_over_the_weights_squared(generator) -> None:
    net = Drawn(["norm", "relu", "residual", "squeeze", "max"], 0, dense=True)
    x = [torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)]
    scores, weights = PX().score(net, x), prunable(net)
    expected = sum((score / weights[name] ** 2).sum() for name, score in scores.items())
    assert ntk_trace_bound(net, x) == pytest.approx(expected.item(), rel=1e-12)


def test_what_cannot_be_compared_is_refused(generator) -> None:
    net, x = nn.Conv2d(3, 2, 1), [torch.randn(1, 3, 4, 4, generator=generator)]
    with pytest.raises(InputError, match="there is a mask for other"):
        ntk_trace(net, x, {"other.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="do not cover the same tensors"):
        agreement({"a": torch.ones(2)}, {"a": torch.ones(3)})


def test_constants_begin_paths_for_the_bound() -> None:
    net = Body(lambda x: (x + 100.0).relu()).double()
    net.first.bias = net.last.bias = None
    x = [torch.randn(2, 3, 4, 4, dtype=torch.float64)]
    exact = ntk_trace(net, x)
    assert ntk_trace_bound(net, x) < exact <= ntk_trace_bound(net, x, biases=True)
