"""bn="batch" against saliencies that the authors' program computed in float64 (released_px.safetensors)."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from px_seg import PX, Masks

FIGURES = load_file(Path(__file__).with_name("released_px.safetensors"))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.bn3(self.short(x)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b, self.head = Block(8, 12, 1), Block(12, 16, 2), nn.Conv2d(16, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return F.interpolate(self.head(self.b(self.a(y))), (16, 16), mode="bilinear", align_corners=False)


def figures(prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in FIGURES.items() if name.startswith(prefix)}


@pytest.fixture
def net() -> nn.Module:
    net = Small().double()
    missing, unexpected = net.load_state_dict(figures("weights."), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return net


@pytest.mark.parametrize("number", [0, 1])
def test_saliencies_of_the_released_program(net: nn.Module, number: int) -> None:
    masks = Masks(figures(f"round{number}.mask."))
    scores = PX(bn="batch").score(net, list(FIGURES["batches"]), masks)
    expected = figures(f"round{number}.score.")
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(scores[name], value, rtol=1e-9, atol=1e-9)


def test_the_default_is_another_reading(net: nn.Module) -> None:
    batch, fold = (PX(bn=bn).score(net, list(FIGURES["batches"])) for bn in ("batch", "fold"))
    assert not torch.allclose(batch["conv1.weight"], fold["conv1.weight"], rtol=0.1)


def test_a_norm_that_sees_a_single_element(generator) -> None:
    """The image-pooling branch of DeepLab: the path kernel passes its BatchNorm as one sample of 1x1."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    net.double()[2].bias.data.normal_(generator=generator)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    scores = PX(bn="batch").score(net, [x])
    assert scores["4.weight"].sum() > 0
    assert scores["1.weight"].max() == 0  # its output does not depend on the weights: beta is left
