"""Kernels and filters, kept or pruned whole."""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import px_seg
from px_seg import PX, InputError, Magnitude, Masks, Random, prune
from px_seg.pruning import RANKINGS, check_whole, largest_unit

LAYERS = {
    "conv": nn.Conv2d(8, 12, 3),
    "grouped": nn.Conv2d(16, 8, 3, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, groups=6),
    "linear": nn.Linear(16, 5),
    "transposed": nn.ConvTranspose2d(8, 3, 2),
    "transposed grouped": nn.ConvTranspose1d(16, 8, 3, groups=4),
}


def units(layer: nn.Module, granularity: str) -> Iterator[list[tuple[int, ...]]]:
    """The places of the weights of every unit, by the definitions of the layers."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in itertools.product(*map(range, layer.weight.shape)):
        first, second = place[:2]
        if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
            group = first // (layer.in_channels // layer.groups)
            out = group * (layer.out_channels // layer.groups) + second
            key = (out, first)
        else:
            key = (first, second)
        found.setdefault(key[: {"kernel": 2, "filter": 1}[granularity]], []).append(place)
    yield from found.values()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("granularity", ["kernel", "filter"])
def test_units_with_the_largest_sums_are_kept_whole(name: str, granularity: str) -> None:
    net = nn.Sequential(LAYERS[name])
    size = net[0].weight.detach().abs().double()
    mask = prune(net, (), 0.4, Magnitude(), granularity=granularity)["0.weight"]
    every = list(units(net[0], granularity))
    kept = [all(bool(mask[place]) for place in places) for places in every]
    assert kept == [any(bool(mask[place]) for place in places) for places in every]
    sums = [sum(float(size[place]) for place in places) for places in every]
    assert min(s for s, k in zip(sums, kept, strict=True) if k) >= max(
        s for s, k in zip(sums, kept, strict=True) if not k
    )
    asked = round(0.6 * mask.numel())
    assert asked - len(every[0]) < mask.sum() <= asked


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("granularity", ["kernel", "filter"])
def test_rounds_keep_as_many_whole_units_as_there_is_room_for(net: nn.Module, ranking: str, granularity: str) -> None:
    seen: list[Masks] = []
    x = [torch.randn(2, 4, 8, 8)]
    masks = prune(
        net,
        x,
        0.7,
        PX(),
        rounds=6,
        ranking=ranking,
        granularity=granularity,
        on_round=lambda _, masks: seen.append(masks),
    )
    assert masks.provenance.granularity == granularity
    modules = dict(net.named_modules())
    largest = max(len(places) for n in masks for places in units(modules[n.removesuffix(".weight")], granularity))
    for number, found in enumerate(seen, 1):
        asked = round(0.3 ** (number / 6) * found.total)
        assert asked - largest < found.kept <= asked
        for name, mask in found.items():
            for places in units(modules[name.removesuffix(".weight")], granularity):
                assert len({bool(mask[place]) for place in places}) == 1
    for before, after in itertools.pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in after)
    for start in seen:
        again = prune(net, x, 0.7, PX(), rounds=6, ranking=ranking, granularity=granularity, start=start)
        assert again == masks


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_hundred_rounds_are_smaller_steps_than_a_filter(net: nn.Module, ranking: str) -> None:
    x = [torch.randn(2, 4, 8, 8)]
    masks = prune(net, x, 0.7, PX(), ranking=ranking, granularity="filter")
    assert 0 <= round(0.3 * masks.total) - masks.kept < 288


def test_large_filters_are_not_kept_for_their_size() -> None:
    torch.manual_seed(0)
    model = px_seg.build_classifier("resnet18", classes=5, weights=None)
    masks = prune(model, (), 0.6, Magnitude(), "encoder", granularity="filter")
    assert all(mask.any() for mask in masks.values())


def flow(net: nn.Module, x: list[Tensor]) -> float:
    """R, all of which goes through the last layer."""
    return float(list(PX().score(net, x).values())[-1].sum())


def test_what_px_says_of_a_filter_is_the_flow_through_its_channel() -> None:
    # R is linear in theta**2, the data's part g held: it follows no weights, and here there are no gates.
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(5, 4)),
    ).double()
    x = [torch.randn(4, 3, 8, 8).double()]
    scores, whole = PX().score(net, x), flow(net, x)
    for name in ("0.weight", "2.weight"):
        for channel in range(5):
            halved = copy.deepcopy(net)
            halved.get_parameter(name).data[channel] /= 2
            assert whole - flow(halved, x) == pytest.approx(0.75 * float(scores[name][channel].sum()), rel=1e-9)


def test_uniform_gives_every_layer_its_share_of_filters() -> None:
    net = nn.Sequential(nn.Conv2d(4, 10, 3), nn.Conv2d(10, 20, 1), nn.Conv2d(20, 4, 1))
    masks = prune(net, (), 0.5, Random(), ranking="uniform", granularity="filter")
    assert [int(mask.flatten(1).any(1).sum()) for mask in masks.values()] == [5, 10, 2]


def test_what_cannot_be_is_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match="no granularity 'channel': choose one of weight, kernel, filter"):
        prune(net, (), 0.5, Magnitude(), granularity="channel")
    with pytest.raises(InputError, match="2:4 is one of single weights: leave the granularity filter out"):
        prune(net, (), 0.5, Magnitude(), pattern="2:4", granularity="filter")
    with pytest.raises(InputError, match="keeps 4 weights, fewer than the 16 of one filter"):
        prune(nn.Linear(16, 8), (), 0.97, Magnitude(), granularity="filter")
    kernels = prune(net, (), 0.5, Magnitude(), granularity="kernel")
    with pytest.raises(InputError, match="belong to another pruning: its granularity was kernel, not weight"):
        prune(net, (), 1 - kernels.kept / kernels.total, Magnitude(), start=kernels.with_provenance(sparsity=None))


def test_masks_that_are_said_to_be_of_whole_units_are_looked_at(net: nn.Module) -> None:
    filters = prune(net, (), 0.5, Magnitude(), granularity="filter")
    check_whole(filters, "filter", net)
    check_whole(filters, "kernel", net)
    check_whole(filters, "weight", net)
    single = prune(net, (), 0.5, Magnitude())
    check_whole(single, "weight", net)
    for name in ("filter", "kernel"):
        with pytest.raises(InputError, match=rf"not all {name}s of 0\.weight are kept or pruned whole"):
            check_whole(single, name, net)
    assert largest_unit([(), (3,), (8, 4, 3, 3)], "filter") == 72
    assert largest_unit([(960, 1, 5, 5)], "filter") == 25
    assert largest_unit([], "filter") == largest_unit([(8, 4, 3, 3)], "weight") == 1
