"""What pruning leaves of a network."""

import pytest
import torch
from torch import nn

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
