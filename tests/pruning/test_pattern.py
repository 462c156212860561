"""Patterns of n in m."""

import itertools

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Magnitude, Masks, prune
from px_seg.pruning import Pattern


def test_a_pattern_brings_no_weight_back() -> None:
    live = torch.tensor([[True, False, False, False, True, True, True, True]])
    (kept,) = Pattern(2, 4).keep([torch.arange(8.0).view(1, 8)], [live], 4, [1])
    assert kept.tolist() == [[True, False, False, False, False, True, True, True]]


LAYERS = {
    "conv": nn.Conv2d(8, 3, 3),
    "grouped": nn.Conv2d(16, 4, 1, groups=2),
    "linear": nn.Linear(16, 5),
    "transposed": nn.ConvTranspose2d(8, 3, 2),
    "transposed grouped": nn.ConvTranspose1d(16, 4, 3, groups=4),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4", "1:2"])
def test_a_pattern_keeps_the_best_of_every_group_of_input_channels(name: str, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    net = nn.Sequential(LAYERS[name])
    weight = net[0].weight.detach()
    mask = prune(net, (), 1 - n / m, Magnitude(), pattern=pattern)["0.weight"]
    if name.startswith("transposed"):
        weight, mask = weight.transpose(0, 1), mask.transpose(0, 1)
    for out in range(weight.shape[0]):
        for place in itertools.product(*map(range, weight.shape[2:])):
            for first in range(0, weight.shape[1], m):
                group = [(-abs(float(weight[(out, first + k, *place)])), k) for k in range(m)]
                kept = sorted(k for _, k in sorted(group)[:n])
                assert [k for k in range(m) if mask[(out, first + k, *place)]] == kept


def test_a_pattern_is_reached_in_rounds_that_never_cut_below_it(net: nn.Module) -> None:
    seen: list[Masks] = []
    x = [torch.randn(2, 4, 8, 8)]
    prune(net, x, 0.5, PX(), rounds=10, pattern="2:4", on_round=lambda _, masks: seen.append(masks))
    for number, masks in enumerate(seen, 1):
        live = [int(k) for mask in masks.values() for k in mask.unflatten(1, (-1, 4)).sum(2).flatten()]
        assert masks.kept == round(0.5 ** (number / 10) * masks.total)
        assert min(live) >= 2
    assert max(live) == 2
    assert any(not torch.equal(masks[n], prune(net, x, 0.5, Magnitude(), pattern="2:4")[n]) for n in masks)


def test_ties_in_a_pattern_go_to_the_first_channel() -> None:
    net = nn.Linear(8, 1)
    net.weight.data.fill_(1.0)
    assert prune(net, (), 0.5, Magnitude(), pattern="2:4")["weight"].tolist() == [[True, True, False, False] * 2]


def test_patterns_that_cannot_be_are_refused(net: nn.Module) -> None:
    for text in ("4:2", "0:4", "2:2", "2-4", "", "a:b", "2:4:8", "-1:4"):
        with pytest.raises(InputError, match="a pattern is n:m with n below m"):
            Pattern.parse(text)
    odd = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    with pytest.raises(InputError, match=r"multiples of 4, which these layers do not have: 0 \(3\), 1 \(1\): take"):
        prune(odd, (), 0.5, Magnitude(), pattern="2:4")
    assert list(prune(odd, (), 0.5, Magnitude(), ["-0", "-1"], pattern="2:4")) == ["2.weight"]
    with pytest.raises(InputError, match=r"do not have: 0 \(2\)"):
        prune(nn.Sequential(nn.ConvTranspose2d(8, 8, 2, groups=4)), (), 0.5, Magnitude(), pattern="2:4")
    large = nn.Linear(3000, 1000, bias=False)
    for sparsity in (0.666667, 0.666666):
        kept = prune(large, (), sparsity, Magnitude(), pattern="1:3")["weight"]
        assert (kept.unflatten(1, (-1, 3)).sum(2) == 1).all()
    for asked in ({"sparsity": 0.6}, {"ranking": "erk"}, {"ranking": "layerwise", "pattern": None}):
        with pytest.raises(
            InputError, match=r"has a sparsity of 0\.5, not 0\.6|leave the ranking|no ranking 'layerwise'"
        ):
            prune(net, (), **{"sparsity": 0.5, "criterion": Magnitude(), "pattern": "2:4"} | asked)
