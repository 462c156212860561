"""Which weights compete: rankings of layers, patterns of n in m, scopes that leave something out."""

import itertools
import math

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Magnitude, Masks, Random, RandomERK, prunable, prune
from px_seg.pruning import RANKINGS, Pattern
from px_seg.pruning.rankings import uniform


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.Flatten()
    )


def erk_by_bisection(shapes: list[torch.Size], count: int) -> list[float]:
    """min(1, scale * (sum of sides) / (product of sides)) of each tensor, the scale such that all add up."""
    low, high = 0.0, 1e6
    for _ in range(200):
        scale = (low + high) / 2
        kept = [min(1.0, scale * sum(shape) / math.prod(shape)) * math.prod(shape) for shape in shapes]
        low, high = (scale, high) if sum(kept) < count else (low, scale)
    return kept


@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_erk_densities_are_those_of_the_formula(net: nn.Module, sparsity: float) -> None:
    masks = prune(net, (), sparsity, RandomERK())
    expected = erk_by_bisection([mask.shape for mask in masks.values()], masks.kept)
    assert masks.kept == round((1 - sparsity) * masks.total)
    for mask, wanted in zip(masks.values(), expected, strict=True):
        assert abs(int(mask.sum()) - wanted) < 1


def test_erk_of_a_known_network() -> None:
    """Two linear layers of 4 -> 4 and 4 -> 16: sums 8 and 20, sizes 16 and 64, so 8/28 and 20/28 of those kept."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 16))
    masks = prune(net, (), 1 - 28 / 80, Magnitude(), ranking="erk")
    assert [int(mask.sum()) for mask in masks.values()] == [8, 20]


@pytest.mark.parametrize("ranking", ["uniform", "erk"])
def test_layers_keep_their_own_best(net: nn.Module, ranking: str) -> None:
    masks = prune(net, (), 0.6, Magnitude(), ranking=ranking, rounds=7)
    assert masks.kept == round(0.4 * masks.total)
    for name, weight in prunable(net).items():
        size = weight.detach().abs()
        pruned = size[~masks[name]]
        assert len(pruned) == 0 or size[masks[name]].min() > pruned.max()
        if ranking == "uniform":
            assert abs(int(masks[name].sum()) - 0.4 * weight.numel()) < 1


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("sparsity", [1e-4, 0.5, 0.99, 0.999])
def test_every_ranking_keeps_exactly_the_count_and_nothing_returns(
    net: nn.Module, ranking: str, sparsity: float
) -> None:
    seen: list[Masks] = []
    x = [torch.randn(2, 4, 8, 8)]
    # PX would find no path left in so few weights.
    rank = Magnitude() if sparsity > 0.99 else PX()
    prune(net, x, sparsity, rank, rounds=20, ranking=ranking, on_round=lambda _, masks: seen.append(masks))
    assert seen[-1].kept == round((1 - sparsity) * seen[-1].total)
    for before, after in itertools.pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in after)


def test_what_rounding_leaves_goes_to_the_largest_fractions() -> None:
    """Of 6 weights in layers of 4 and 6 there are 2.4 and 3.6 to keep, of 5 in layers of 3 and 7 1.5 and 3.5."""
    for sizes, count, expected in (((4, 6), 6, [2, 4]), ((6, 4), 4, [2, 2]), ((3, 7), 5, [2, 3])):
        masks = Masks({str(n): torch.ones(size, dtype=torch.bool) for n, size in enumerate(sizes)})
        kept = masks.keep_top({name: torch.rand(len(mask)) for name, mask in masks.items()}, count / 10, uniform)
        assert [int(mask.sum()) for mask in kept.values()] == expected


def test_a_layer_with_little_left_keeps_no_more_than_that() -> None:
    masks = Masks({"a": torch.tensor([True, False, False, False]), "b": torch.ones(8, dtype=torch.bool)})
    kept = masks.keep_top({"a": torch.ones(4), "b": torch.ones(8)}, 9 / 12, uniform)
    assert [mask.sum().item() for mask in kept.values()] == [1, 8]


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


def test_a_minus_takes_a_part_out_of_the_scope(net: nn.Module) -> None:
    tree = nn.ModuleDict({"encoder": net, "head": nn.Linear(2, 2)})
    assert list(prunable(tree, ["encoder", "-encoder.0"])) == ["encoder.2.weight", "encoder.4.weight"]
    assert list(prunable(tree, ["-encoder"])) == ["head.weight"]
    assert list(prunable(tree, "-encoder")) == ["head.weight"]
    with pytest.raises(InputError, match="excludes everything"):
        prunable(tree, ["head", "-head"])
    with pytest.raises(InputError, match=r"under 'encoder\.9'"):
        prunable(tree, ["encoder", "-encoder.9"])


def test_shuffled_masks_keep_every_layers_count_and_depend_on_the_seed_alone(net: nn.Module) -> None:
    masks = prune(net, (), 0.7, Magnitude())
    shuffled = masks.shuffled(1)
    assert shuffled.densities() == masks.densities()
    assert shuffled == masks.shuffled(1)
    assert shuffled != masks.shuffled(2)
    for name, mask in masks.items():
        together = float((mask & shuffled[name]).sum()) / float(mask.sum())
        assert abs(together - masks.densities()[name]) < 0.2


def test_a_pruning_that_was_broken_off_ends_as_the_whole_one(net: nn.Module) -> None:
    x = [torch.randn(2, 4, 8, 8)]
    seen: list[Masks] = []
    whole = prune(net, x, 0.9, PX(), rounds=10, on_round=lambda _, masks: seen.append(masks))
    numbers: list[int] = []
    again = prune(net, x, 0.9, PX(), rounds=10, start=seen[5], on_round=lambda number, _: numbers.append(number))
    assert numbers == [7, 8, 9, 10]
    assert again == whole
    assert again.provenance == whole.provenance
    same_count = prune(net, x, 1 - seen[5].density, Random())
    for other in (prune(net, x, 0.123, Random()), Masks({"0.weight": seen[5]["0.weight"]}), same_count):
        with pytest.raises(InputError, match="belong to another pruning"):
            prune(net, x, 0.9, PX(), rounds=10, start=other)
    assert prune(net, x, 0.9, PX(), rounds=10, start=Masks(seen[5])) == whole
