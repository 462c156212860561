"""What pruning leaves of a network."""

import pytest
import torch
from torch import nn

from px_seg import Masks, UnsupportedOperation
from px_seg.analysis import collapse


def test_collapse_counts_empty_layers_and_stranded_weights() -> None:
    """Hidden unit 0 has no input left and unit 2 no output, so two of the five kept weights come to nothing."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Linear(1, 1))
    first = torch.tensor([[False, False], [True, True], [True, False]])
    masks = {"0.weight": first, "2.weight": torch.tensor([[True, True, False]])}
    found = collapse(net, masks, (2,))
    assert (found.empty, found.thinnest) == ((), 0.5)
    assert found.stranded == pytest.approx(2 / 5)
    cut = collapse(net, {**masks, "3.weight": torch.tensor([[False]])}, (2,))
    assert (cut.empty, cut.stranded) == (("3.weight",), 1.0)


class WithConstant(nn.Module):
    """Returns a constant beside what it computes, which is no output that paths reach."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x), torch.ones(1)


def test_a_network_that_paths_are_not_defined_for_is_refused_and_not_called_cut() -> None:
    net = WithConstant()
    with pytest.raises(UnsupportedOperation, match="carries no paths"):
        collapse(net, Masks.ones(net), (3, 4, 4))
