"""Which layers are in the pattern 2:4, of networks in which it is known."""

import pytest
import torch
from torch import Tensor, nn

from px_seg import prune
from px_seg.analysis.sparse_units import SparseLayer, of_sparse_units, share_of, short, sparse_layers
from px_seg.models import build_segmenter
from px_seg.pruning import Magnitude

SHAPE = (8, 6, 6)


def with_two_of_four(net: nn.Module) -> dict[str, Tensor]:
    """Weights whose input channels 4k and 4k + 1 alone are not 0."""
    weights = {name: torch.ones_like(value) for name, value in net.state_dict().items()}
    for name, weight in weights.items():
        if weight.ndim > 1:
            weight[:, 2::4] = 0
            weight[:, 3::4] = 0
            assert weight.any(), name
    return weights


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(16, 16, 1, groups=2),
        nn.Conv2d(16, 6, 1),
        nn.ConvTranspose2d(6, 12, 1),
        nn.Flatten(),
        nn.Linear(12 * 36, 5),
    )


def test_layers_with_their_share_of_the_operations() -> None:
    net = network()
    first, grouped, third, transposed, last = 16 * 8 * 9 * 36, 16 * 8 * 36, 6 * 16 * 36, 6 * 12 * 36, 5 * 12 * 36
    total = first + grouped + third + transposed + last
    # A transposed convolution's first dimension is the one of its inputs: in neither is it taken.
    assert sparse_layers(net, with_two_of_four(net), SHAPE) == {
        "0": SparseLayer(8, 16, pytest.approx(first / total)),
        "2": SparseLayer(16, 6, pytest.approx(third / total)),
        "5": SparseLayer(432, 5, pytest.approx(last / total)),
    }
    assert net.training


def test_three_of_four_anywhere_and_empty_layers_are_not_in_it() -> None:
    net = network()
    weights = with_two_of_four(net)
    weights["0.weight"][7, 6, 2, 1] = 1.0
    weights["2.weight"].zero_()
    weights["5.weight"][:, 0] = 0.0
    assert set(sparse_layers(net, weights, SHAPE)) == {"5"}
    # Groups begin at multiples of four: these four are of two of them.
    weights["5.weight"][:, 2:6] = 1.0
    weights["5.weight"][:, 1] = 0.0
    assert set(sparse_layers(net, weights, SHAPE)) == {"5"}
    weights["5.weight"][2, 1] = 1.0
    assert not sparse_layers(net, weights, SHAPE)


def test_inputs_that_four_does_not_divide_are_not_in_it() -> None:
    net = nn.Sequential(nn.Conv2d(6, 4, 1))
    weights = {"0.weight": torch.zeros(4, 6, 1, 1)}
    weights["0.weight"][:, 0] = 1.0
    assert not sparse_layers(net, weights, (6, 2, 2))


def test_of_a_segmenter_those_that_the_pattern_was_asked_of() -> None:
    torch.manual_seed(0)
    model = build_segmenter("resnet18", 3, "none", 16)
    masks = prune(model, (), 0.5, Magnitude(), ["encoder.layer3", "encoder.layer4"], pattern="2:4")
    weights = {name: value * masks.get(name, torch.ones(())) for name, value in model.state_dict().items()}
    found = sparse_layers(model, weights, (3, 64, 64))
    assert {f"{name}.weight" for name in found} == set(masks)
    narrow = {name for name, layer in found.items() if not layer.is_wide}
    assert narrow == {"encoder.layer3.0.conv1", "encoder.layer3.0.downsample.0"}
    # conv2 of layer4.1: 512 x 512 x 9 weights on 4 x 4 places, two operations each.
    total = found["encoder.layer4.1.conv2"].share
    assert found["encoder.layer3.1.conv1"].share == pytest.approx(total / 4)
    line = of_sparse_units(found)
    assert line.startswith(f"2:4 in 10 layers with {share_of(found):.0%} of the operations; 256 channels wide are 8, ")
    assert line.endswith("encoder.layer4.{0-1}.conv2, encoder.layer4.0.downsample.0")


def test_narrow_layers_alone_gain_nothing() -> None:
    assert of_sparse_units({"a": SparseLayer(64, 512, 0.25)}).endswith(
        "25% of the operations, none of them 256 channels wide, below which sparse units gain nothing"
    )


def test_names_of_blocks_are_put_together() -> None:
    names = [f"layer3.{number}.conv1" for number in (0, 2, 3, 4)] + ["layer3.0.downsample.0", "stem"]
    names += ["blocks.2.1.conv_pw", "blocks.2.3.conv_pw", "blocks.3.1.conv_pw", "head.0"]
    assert short(names) == [
        *("layer3.{0,2-4}.conv1", "layer3.0.downsample.0", "stem"),
        *("blocks.2.{1,3}.conv_pw", "blocks.3.1.conv_pw", "head.0"),
    ]
