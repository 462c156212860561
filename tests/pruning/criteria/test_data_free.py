"""Criteria that read no images."""

import pytest
import torch
from torch import nn

from px_seg import Random, criterion, prune


def test_random_scores_are_not_the_numbers_that_made_the_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    for name, score in criterion("random", seed=0).score(net).items():
        both = torch.stack([score.flatten(), net.get_parameter(name).detach().flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))


def test_random_depends_on_its_seed_alone(net: nn.Module) -> None:
    first, again, other = (prune(net, (), 0.5, Random(seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
