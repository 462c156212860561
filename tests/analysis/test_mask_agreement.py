"""How far two prunings agree."""

import torch

from px_seg.analysis import agreement


def test_agreement_is_the_share_of_equal_places() -> None:
    first = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False])}
    second = {"a": torch.tensor([True, False, False]), "b": torch.tensor([False])}
    assert agreement(first, second) == 0.75
