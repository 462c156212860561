"""Pruning in rounds."""

import pytest
import torch
from torch import nn

from px_seg import PX, InputError, Masks, Random, prune


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
