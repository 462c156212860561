"""Patterns of n in m."""

import itertools

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Magnitude, Masks, RandomERK, prunable, prune
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


def wide() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1), nn.ConvTranspose2d(16, 8, 2))


@pytest.mark.parametrize("sparsity", [0.45, 0.6, 0.9])
def test_at_most_is_kept_by_wide_layers_and_the_rest_is_the_best(sparsity: float) -> None:
    torch.manual_seed(0)
    net = wide()
    masks = prune(net, (), sparsity, Magnitude(), pattern="at-most 2:4 from 8")
    assert masks.kept == round((1 - sparsity) * masks.total)
    assert masks.provenance.pattern == "at-most 2:4 from 8"
    allowed, size = [], []
    for name, weight in prunable(net).items():
        weight, mask = weight.detach(), masks[name]
        if name.startswith("3."):
            weight, mask = weight.transpose(0, 1), mask.transpose(0, 1)
        if weight.shape[1] >= 8:
            assert mask.unflatten(1, (-1, 4)).sum(2).max() <= 2
            groups = weight.abs().unflatten(1, (-1, 4))
            second = groups.sort(dim=2, descending=True).values[:, :, 1:2]
            allowed.append((groups >= second).flatten(1, 2).flatten())
        else:
            allowed.append(torch.ones(weight.numel(), dtype=torch.bool))
        size.append(weight.abs().flatten())
    size, allowed = torch.cat(size), torch.cat(allowed)
    kept = torch.cat([(m.transpose(0, 1) if n.startswith("3.") else m).flatten() for n, m in masks.items()])
    assert size[kept].min() >= size[allowed & ~kept].max()


def test_at_most_is_reached_in_rounds_from_a_denser_network() -> None:
    net, seen = wide(), []
    x = [torch.randn(2, 3, 8, 8)]
    masks = prune(
        net, x, 0.7, PX(), rounds=5, pattern="at-most 1:4 from 8", on_round=lambda _, masks: seen.append(masks)
    )
    assert [found.kept for found in seen] == [round(0.3 ** (n / 5) * masks.total) for n in range(1, 6)]
    for before, after in itertools.pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in after)
    assert masks["2.weight"].unflatten(1, (-1, 4)).sum(2).max() == 1


def test_layers_that_gain_nothing_are_exempt_from_at_most() -> None:
    net = wide()
    assert Pattern.parse("at-most 2:4").exempt(net) == ["0", "1", "2", "3"]
    assert Pattern.parse("at-most 2:4 from 16").exempt(net) == ["0", "1", "3"]
    assert Pattern.parse("at-most 2:4 from 8").exempt(net) == ["0"]
    assert Pattern.parse("at-most 2:3 from 3").exempt(net) == ["1", "2", "3"]
    assert Pattern.parse("2:4").exempt(net) == []
    grouped = nn.Sequential(nn.Conv2d(16, 32, 1, groups=4), nn.ConvTranspose2d(16, 32, 1, groups=4))
    assert Pattern.parse("at-most 2:4 from 4").exempt(grouped) == []
    assert Pattern.parse("at-most 2:4 from 5").exempt(grouped) == ["0", "1"]


def test_at_most_asks_for_a_sparsity_that_it_can_have() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    with pytest.raises(InputError, match=r"leaves at most 48 of the 80 weights .* a sparsity of 0\.4 or more"):
        prune(net, (), 0.3, Magnitude(), pattern="at-most 2:4 from 8")
    assert prune(net, (), 0.4, Magnitude(), pattern="at-most 2:4 from 8").kept == 48
    for text in ("2:4 from 8", "at-most 4:4", "at-most", "at-most 2:4 from", "at most 2:4"):
        with pytest.raises(InputError, match="a pattern is n:m with n below m"):
            Pattern.parse(text)
    for text in ("2:4", "at-most 2:4", "at-most 1:4 from 64"):
        assert str(Pattern.parse(text)) == text


def test_at_most_is_refused_where_it_would_say_nothing_or_something_else() -> None:
    net = wide()
    with pytest.raises(InputError, match="a sparsity of 0 prunes nothing: leave the pattern at-most 2:4 from 8 out"):
        prune(net, (), 0, Magnitude(), pattern="at-most 2:4 from 8")
    with pytest.raises(InputError, match=r"no layer in scope has 256 input and output channels.*from 64"):
        prune(net, (), 0.9, Magnitude(), pattern="at-most 2:4")
    with pytest.raises(InputError, match=r"RandomERK fixes their densities \(erk\): choose another method"):
        prune(net, (), 0.9, RandomERK(), pattern="at-most 2:4 from 8")


def test_the_sparsity_that_is_advised_is_enough() -> None:
    net = wide()
    with pytest.raises(InputError, match="or more") as refused:
        prune(net, (), 0.1, Magnitude(), pattern="at-most 2:4 from 8")
    advised = float(str(refused.value).rpartition("sparsity of ")[2].split()[0])
    masks = prune(net, (), advised, Magnitude(), pattern="at-most 2:4 from 8")
    assert masks.kept == round((1 - advised) * masks.total)
