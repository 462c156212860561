"""Scores over their layer's sum: what a chain does not notice, and what branches gain."""

import pytest
import torch
from helpers.networks import Drawn, drawn, images
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from px_seg import (
    PX,
    InputError,
    NTKTrace,
    PXConserved,
    PXPaths,
    SynFlow,
    SynFlowL2,
    build_classifier,
    criterion,
    prune,
)
from px_seg.analysis import agreement, collapse

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PATHS = (PX, PXPaths, SynFlow, SynFlowL2)
CHAIN = ("conv", "strided", "dilated", "grouped", "depthwise", "separable", "norm", "relu", "relu_", "leaky", "silu")
CHAIN += ("hardswish", "prelu", "max", "average", "upsample", "dropout")


def scores_of(rank, net: nn.Module, x: list):
    try:
        return rank.score(net, x)
    except InputError:
        reject()  # gates may be shut


@PROPERTY
@given(net=drawn(CHAIN), kind=st.sampled_from(PATHS), c=st.sampled_from([0.5, 1.0]), seed=st.integers(0, 99))
def test_along_a_chain_the_ranking_stays(net: Drawn, kind: type, c: float, seed: int) -> None:
    """Every layer is a cut there, so every layer's sum is the same."""
    net, x = net.eval(), images(seed, 2)
    plain, conserved = scores_of(kind(), net, x), kind(conserve=c).score(net, x)
    whole = next(iter(plain.values())).sum()
    for name, score in conserved.items():
        torch.testing.assert_close(score, plain[name] / whole**c, rtol=1e-9, atol=0)


@PROPERTY
@given(
    net=drawn((*CHAIN, "residual", "projected", "concat", "squeeze")),
    kind=st.sampled_from((*PATHS, NTKTrace)),
    seed=st.integers(0, 99),
)
def test_every_layer_sums_to_one_or_has_no_path(net: Drawn, kind: type, seed: int) -> None:
    net, x = net.eval(), images(seed, 2)
    plain, conserved = scores_of(kind(), net, x), kind(conserve=1.0).score(net, x)
    for name, score in conserved.items():
        if plain[name].any():
            assert score.sum().item() == pytest.approx(1, rel=1e-12)
            torch.testing.assert_close(score, plain[name] / plain[name].sum(), rtol=1e-9, atol=0)
        else:
            assert not score.any()


def test_a_grouped_convolution_is_one_layer() -> None:
    net = Drawn(["grouped", "depthwise", "conv"], 0, dense=True).eval()
    scores = PXConserved().score(net, images(0, 2))
    assert net.body[0].groups == 2
    assert net.body[1].groups == 4
    assert scores["body.0.weight"].sum().item() == pytest.approx(1)
    assert scores["body.1.weight"].sum().item() == pytest.approx(1)


def test_the_last_weight_of_a_layer_scores_one() -> None:
    net, x = Drawn(["residual", "relu"], 0, dense=True).eval(), images(0, 2)
    name = "body.0.body.0.weight"
    plain = PX().score(net, x)[name]
    masks = {name: torch.zeros_like(plain, dtype=torch.bool)}
    masks[name].view(-1)[plain.argmax()] = True
    under = PXConserved().score(net, x, masks)[name]
    assert under.max().item() == pytest.approx(1, rel=1e-12)
    assert under.count_nonzero() == 1
    # In PX itself it is worth next to nothing, whatever it is to its layer.
    assert PX().score(net, x, masks)[name].sum() < 0.5 * PX().score(net, x, masks)["stem.weight"].sum()


def test_without_it_nothing_changes() -> None:
    """Scores that today's readers know, not this module's own."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    net[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, -9.0]])
    net[2].weight.data = torch.tensor([[2.0, 5.0]])
    net, x = net.double(), [torch.tensor([[1.0, 1.0]], dtype=torch.float64)]
    # The first hidden unit is open, the second shut: g = 2. h = 4 (1 + 4) + 25 (9 + 81).
    scores = PX().score(net, x)
    assert scores["0.weight"].tolist() == [[8.0, 32.0], [450.0, 4050.0]]
    assert scores["2.weight"].tolist() == [[40.0, 4500.0]]
    conserved = PXConserved().score(net, x)
    assert conserved["0.weight"][0, 1].item() == pytest.approx(32 / 4540)
    assert PX() == PX(conserve=0.0)


def resnet(encoder: str) -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(encoder, classes=10, weights=None).eval()


def some_images() -> list[Tensor]:
    return [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("name", ["px", "synflow", "synflow_l2", "px_paths"])
def test_no_layer_of_a_resnet_is_empty_if_it_has_a_path(name: str) -> None:
    net = resnet("resnet20")
    masks = prune(net, some_images(), 0.995, criterion(name, conserve=1.0), scope="encoder", rounds=30)
    assert collapse(net, masks, (3, 32, 32)).empty == ()


@pytest.mark.slow
def test_stages_that_px_empties_keep_weights() -> None:
    net, x = resnet("resnet18"), some_images()
    empty = [
        collapse(net, prune(net, x, 0.995, PX(conserve=c), scope="encoder", rounds=20), (3, 32, 32)).empty
        for c in (0.0, 1.0)
    ]
    assert len(empty[0]) >= 4
    assert empty[1] == ()


def test_float32_masks_are_those_of_float64() -> None:
    net = resnet("resnet20")
    masks = [
        prune(net, some_images(), 0.98, PXConserved(precision=precision), scope="encoder", rounds=30)
        for precision in ("float32", "float64")
    ]
    assert agreement(*masks) >= 0.9999


def test_a_share_outside_the_range_is_refused() -> None:
    for (name, value), message in {
        ("px", 1.5): "PX: conserve must be a number from 0 to 1, got 1.5",
        ("px_paths", -1): "conserve must be a number from 0 to 1",
        ("synflow", float("nan")): "conserve must be a number from 0 to 1",
        ("px", "all"): "conserve must be a number, such as 0.0",
        ("px_conserved", True): "conserve must be a number, such as 1.0",
    }.items():
        with pytest.raises(InputError, match=message):
            criterion(name, conserve=value)
    assert criterion("px_conserved") == PXConserved(conserve=1)
    assert all(criterion(name).conserve == 0 for name in ("px", "synflow", "synflow_l2", "px_paths", "ntk_trace"))
    assert set(PXConserved().settings()) == {"seed", "conserve", "bn", "precision", "statistics"}
