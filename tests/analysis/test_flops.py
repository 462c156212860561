"""Operations counted, against the sums written out."""

import pytest
import torch
from torch import nn

from px_seg import prune
from px_seg.analysis.flops import count_flops
from px_seg.models import build_segmenter
from px_seg.pruning import Random


def test_operations_are_two_a_weight_and_place() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    first, second, last = 2 * (8 * 3 * 9) * 6 * 4, 2 * (8 * 2 * 9) * 6 * 4, 2 * 8 * 5
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    assert count_flops(net, weights, (3, 12, 8)) == (first + second + last,) * 2
    weights["0.weight"][:4] = 0
    weights["6.weight"][0] = 0
    kept = first // 2 + second + last * 4 // 5
    assert count_flops(net, weights, (3, 12, 8)) == (kept, first + second + last)
    # Only the weights that were given count, and the network is as it was.
    assert net.training
    assert (net[0].weight != 0).all()


def test_of_a_segmenter_a_pruned_layer_costs_its_density() -> None:
    torch.manual_seed(0)
    model = build_segmenter("resnet18", 3, "none", 16)
    masks = prune(model, (), 0.9, Random(), "encoder.layer4.1.conv1")
    weights = {name: value * masks.get(name, torch.ones(())) for name, value in model.state_dict().items()}
    kept, total = count_flops(model, weights, (3, 64, 64))
    # 512 x 512 weights of 3 x 3 on a map of 4 x 4 at output stride 16.
    assert total - kept == pytest.approx(0.9 * 2 * 512 * 512 * 9 * 4 * 4, rel=1e-5)
