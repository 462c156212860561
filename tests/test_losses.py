"""Losses, against what they are defined to be."""

import pytest
import torch
from torch import nn

from px_seg.losses import cross_entropy, squared


def test_label_255_is_a_class_like_any_other() -> None:
    """Of a thousand classes one has the number that label maps ignore."""
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([255, 1, 255])
    torch.testing.assert_close(cross_entropy(logits, labels), nn.functional.cross_entropy(logits, labels))


def test_squared_loss_is_the_mean_squared_difference_from_one_hot() -> None:
    outputs = torch.tensor([[0.5, 0.0, 1.0], [0.0, 2.0, 0.0]])
    expected = (0.25 + 0 + 0 + 0 + 1 + 0) / 6
    assert squared(outputs, torch.tensor([2, 1])).item() == pytest.approx(expected)
