"""Rankings of layers: over all, layer by layer, and by the sizes of layers."""

import itertools
import math

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Magnitude, Masks, Random, RandomERK, prunable, prune
from px_seg.pruning import RANKINGS
from px_seg.pruning.rankings import ranking


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


def test_layers_keep_as_many_as_in_other_masks(net: nn.Module) -> None:
    """At the end exactly; on the way each is as far from dense to there as all together."""
    given = prune(net, (), 0.9, Magnitude())
    seen: list[Masks] = []
    masks = prune(net, (), 0.9, Random(), rounds=4, density_from=given, on_round=lambda _, now: seen.append(now))
    counts = {name: int(mask.sum()) for name, mask in given.items()}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == counts
    for now in seen:
        left = (now.kept - given.kept) / (given.total - given.kept)
        for name, mask in now.items():
            assert abs(int(mask.sum()) - (counts[name] + left * (mask.numel() - counts[name]))) <= 1
    for before, after in itertools.pairwise(seen):
        assert all(bool((before[name] | ~mask).all()) for name, mask in after.items())
    # Magnitude again in layers of its own densities is magnitude itself.
    assert prune(net, (), 0.9, Magnitude(), density_from=given) == given
    assert masks.provenance.ranking.startswith("given:")
    others = prune(net, (), 0.5, Magnitude())
    assert masks.provenance.ranking != prune(net, (), 0.5, Magnitude(), density_from=others).provenance.ranking


def test_densities_of_other_masks_are_held_to_the_rest(net: nn.Module) -> None:
    given = prune(net, (), 0.9, Magnitude())
    with pytest.raises(InputError, match=r"prune 89\.9872% of the weights: ask for a sparsity of 0\.9$"):
        prune(net, (), 0.8, Magnitude(), density_from=given)
    for changes, message in (
        ({"ranking": "erk"}, "leave the ranking erk out"),
        ({"pattern": "at-most 2:4"}, "leave the pattern at-most 2:4 out"),
        ({"granularity": "filter"}, "leave filters out"),
    ):
        with pytest.raises(InputError, match=f"layers keep as many weights as other masks have: {message}"):
            prune(net, (), 0.9, Magnitude(), density_from=given, **changes)
    with pytest.raises(InputError, match=r"RandomERK fixes the densities of layers itself \(erk\)"):
        prune(net, (), 0.9, RandomERK(), density_from=given)
    filters = prune(net, (), 0.5, Magnitude(), granularity="filter")
    sparsity = 1 - filters.kept / filters.total
    assert filters.kept < round(0.5 * filters.total)
    with pytest.raises(InputError, match=f"ask for a sparsity of {sparsity:.10g}"):
        prune(net, (), 0.5, Magnitude(), density_from=filters)
    assert prune(net, (), sparsity, Magnitude(), density_from=filters).densities() == filters.densities()
    first = next(iter(given))
    part = {name: mask for name, mask in given.items() if name != first}
    with pytest.raises(InputError, match=f"have none for {first} of shape"):
        prune(net, (), 0.9, Magnitude(), density_from=part)
    with pytest.raises(InputError, match=r"are also of other\.weight, which is not in scope"):
        prune(net, (), 0.9, Magnitude(), density_from={**given, "other.weight": torch.ones(1, dtype=torch.bool)})


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
        kept = masks.keep_top(
            {name: torch.rand(len(mask)) for name, mask in masks.items()}, count / 10, ranking("uniform")
        )
        assert [int(mask.sum()) for mask in kept.values()] == expected


def test_a_layer_with_little_left_keeps_no_more_than_that() -> None:
    masks = Masks({"a": torch.tensor([True, False, False, False]), "b": torch.ones(8, dtype=torch.bool)})
    kept = masks.keep_top({"a": torch.ones(4), "b": torch.ones(8)}, 9 / 12, ranking("uniform"))
    assert [mask.sum().item() for mask in kept.values()] == [1, 8]


def test_shuffled_masks_keep_every_layers_count_and_depend_on_the_seed_alone(net: nn.Module) -> None:
    masks = prune(net, (), 0.7, Magnitude())
    shuffled = masks.shuffled(1)
    assert shuffled.densities() == masks.densities()
    assert shuffled == masks.shuffled(1)
    assert shuffled != masks.shuffled(2)
    for name, mask in masks.items():
        together = float((mask & shuffled[name]).sum()) / float(mask.sum())
        assert abs(together - masks.densities()[name]) < 0.2
