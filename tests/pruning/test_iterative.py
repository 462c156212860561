"""Pruning in rounds."""

import copy

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Magnitude, Masks, Random, prune, recalibrate
from px_seg.pruning import exponential


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


def test_rounds_score_what_a_repair_leaves_of_a_copy(net: nn.Module) -> None:
    x = [torch.randn(2, 4, 8, 8)]
    before, repaired = copy.deepcopy(net.state_dict()), []

    def repair(network: nn.Module, masks: Masks) -> None:
        recalibrate(network, x, masks, "reconstruct")
        repaired.append(network)

    found = prune(net, x, 0.8, Magnitude(), rounds=3, repair=repair)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    names = list(found)
    live = {name: torch.ones_like(found[name]) for name in names}
    for density in exponential(0.2, 3):
        network = copy.deepcopy(net)
        if not all(mask.all() for mask in live.values()):
            recalibrate(network, x, Masks(live), "reconstruct")
        weights = dict(network.named_parameters())
        scores = torch.cat([(weights[name].abs() * live[name]).flatten() for name in names])
        least = scores.sort(descending=True).values[round(density * found.total) - 1]
        live = {name: (weights[name].abs() * live[name]) >= least for name in names}
    assert all(torch.equal(found[name], live[name]) for name in names)
    assert len(repaired) == 2
    assert found != prune(net, x, 0.8, Magnitude(), rounds=3)
