"""PX against what it is defined to be, in float64, written out without its own code."""

import itertools
import random

import pytest
import torch
from helpers.networks import PIECES, Drawn, drawn, images, some_masks
from helpers.reference import Reference
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from px_seg import PX, InputError

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def scores_of(net: nn.Module, x: list, **settings) -> dict[str, Tensor]:
    try:
        return PX(**settings).score(net, x)
    except InputError:
        reject()  # a network whose gates are all shut has no score


def check_against_the_reference(net: Drawn, density: float, seed: int) -> None:
    """Against copies of the network that share no code with px_seg, and no gradient."""
    x, masks = images(seed, 2, 1), some_masks(net, density, seed)
    reference = Reference(net, x, masks)
    bound = reference.bound()
    if bound == 0:
        reject()
    scores = PX().score(net, x, masks)
    rng = random.Random(seed)
    for name, score in scores.items():
        assert (score >= 0).all()
        for _ in range(3):
            place = tuple(rng.randrange(side) for side in score.shape)
            lost = bound - reference.bound(name, place)
            if "max" not in net.pieces:
                torch.testing.assert_close(score[place], lost, rtol=1e-9, atol=1e-13 * bound.item())
                continue
            # Without the weight another element of h may be a window's largest: R is convex in its
            # square, the score is the slope, and the loss no more than that.
            slope = (bound - reference.bound(name, place, keep=1 - 1e-6)) / 1e-6
            torch.testing.assert_close(score[place], slope, rtol=1e-6, atol=1e-9 * bound.item())
            assert lost <= score[place] + 1e-12 * bound
    # What every path crosses carries the whole bound.
    for name in ("stem.weight", "head.weight"):
        torch.testing.assert_close(scores[name].sum(), bound, rtol=1e-12, atol=0)


@pytest.mark.parametrize("density", [1.0, 0.8])
@pytest.mark.parametrize("piece", PIECES)
def test_scores_are_what_the_bound_loses_without_the_weight(piece: str, density: float) -> None:
    for dense, seed in itertools.product((True, False), range(2)):
        check_against_the_reference(Drawn([piece, "leaky", piece, "conv", piece], seed, dense), density, seed)


@PROPERTY
@given(net=drawn(PIECES), density=st.sampled_from([1.0, 0.7]), seed=st.integers(0, 99))
def test_scores_are_so_in_any_order_of_the_pieces(net: Drawn, density: float, seed: int) -> None:
    check_against_the_reference(net, density, seed)


@PROPERTY
@given(net=drawn(PIECES), factor=st.sampled_from([-3.0, 0.01, 7.0]), seed=st.integers(0, 99))
def test_scaling_a_layer_keeps_the_ranking(net: Drawn, factor: float, seed: int) -> None:
    x = images(seed, 2)
    before = scores_of(net, x)
    net.head.weight.data *= factor
    for name, score in PX().score(net, x).items():
        torch.testing.assert_close(score, factor**2 * before[name], rtol=1e-10, atol=0)


@PROPERTY
@given(net=drawn(PIECES), cut=st.integers(1, 3), seed=st.integers(0, 99))
def test_batches_can_be_cut_and_ordered_at_will(net: Drawn, cut: int, seed: int) -> None:
    (x,) = images(seed, 4)
    whole = scores_of(net, [x])
    for split in ([x[:cut], x[cut:]], [(x[cut:], None), (x[:cut], None)]):
        for name, score in PX().score(net, split).items():
            torch.testing.assert_close(score, whole[name], rtol=1e-10, atol=0)


@PROPERTY
@given(net=drawn(PIECES), seed=st.integers(0, 99))
def test_float32_agrees_with_float64(net: Drawn, seed: int) -> None:
    x = images(seed, 2)
    double, single = scores_of(net, x), scores_of(net, x, precision="float32")
    total = sum(score.sum() for score in double.values())
    for name, score in single.items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score.double(), double[name], rtol=1e-4, atol=1e-7 * total.item())


def test_scores_equal_a_sum_over_enumerated_paths(generator) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    net = net.double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    first, second, third = (net[i].weight.detach() for i in (0, 2, 4))
    scores = PX().score(net, [x])

    open_1 = x @ first.T > 0
    open_2 = (x @ first.T).relu() @ second.T > 0
    expected = {"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(3, 4), "4.weight": torch.zeros(2, 3)}
    expected = {name: value.double() for name, value in expected.items()}
    paths = list(itertools.product(range(3), range(4), range(3)))
    for k in range(2):
        g = sum((open_1[:, a] & open_2[:, b]) * x[:, s] ** 2 for s, a, b in paths).sum()
        for s, a, b in paths:
            value = (first[a, s] * second[b, a] * third[k, b]) ** 2
            for name, place in (("0.weight", (a, s)), ("2.weight", (b, a)), ("4.weight", (k, b))):
                expected[name][place] += g * value
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-12, atol=0)
