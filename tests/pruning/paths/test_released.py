"""The released program's readings against saliencies that it computed in float64 (released_px*.safetensors)."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from px_seg import PX, Masks, prunable

FIGURES = load_file(Path(__file__).with_name("released_px.safetensors"))
OF_DEEPLAB = load_file(Path(__file__).with_name("released_px_deeplab.safetensors"))


class Block(nn.Module):
    """All norms are called bn."""

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


class TorchvisionBlock(nn.Module):
    """The norm of the shortcut is called downsample.1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.downsample = nn.Sequential(short, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(TorchvisionBlock(8, 12, 2))
        self.layer2 = nn.Sequential(TorchvisionBlock(12, 16, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.layer1(F.relu(self.bn1(self.conv1(x))))
        return low, self.layer2(low)


class DeepLab(nn.Module):
    """Norms in the decoder that are not called bn, and a bias in the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.project = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.classifier = nn.Sequential(nn.Conv2d(22, 10, 3, 1, 1, bias=False), nn.BatchNorm2d(10))
        self.last = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, out = self.backbone(x)
        low = F.relu(self.project(low))
        out = F.interpolate(out, low.shape[-2:], mode="bilinear", align_corners=False)
        y = self.last(F.relu(self.classifier(torch.cat([low, out], 1))))
        return F.interpolate(y, (16, 16), mode="bilinear", align_corners=False)


def figures(prefix: str, file: dict[str, Tensor] = FIGURES) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in file.items() if name.startswith(prefix)}


def filled(net: nn.Module, file: dict[str, Tensor]) -> nn.Module:
    missing, unexpected = net.double().load_state_dict(figures("weights.", file), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return net


@pytest.fixture
def net() -> nn.Module:
    return filled(Small(), FIGURES)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("bn", ["batch", "released"])
def test_saliencies_of_the_released_program(net: nn.Module, number: int, bn: str) -> None:
    """Where all norms are called bn and nothing has a bias, both readings are its own."""
    check(net, FIGURES, number, bn)


@pytest.mark.parametrize("number", [0, 1])
def test_saliencies_of_the_released_program_on_a_network_like_its_deeplab(number: int) -> None:
    net = filled(DeepLab(), OF_DEEPLAB)
    check(net, OF_DEEPLAB, number, "released")
    masks, batches = Masks(figures(f"round{number}.mask.", OF_DEEPLAB)), list(OF_DEEPLAB["batches"])
    other = PX(bn="batch").score(net, batches, masks)
    for name, value in figures(f"round{number}.score.", OF_DEEPLAB).items():
        assert not torch.allclose(other[name], value, rtol=0.1), name


def check(net: nn.Module, file: dict[str, Tensor], number: int, bn: str) -> None:
    scores = PX(bn=bn).score(net, list(file["batches"]), Masks(figures(f"round{number}.mask.", file)))
    expected = figures(f"round{number}.score.", file)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(scores[name], value, rtol=1e-9, atol=1e-9)


class Named(nn.Module):
    """A classifier that the program knows by its name, norms that it knows and does not, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc_norm, self.fc1, self.fc2 = nn.BatchNorm2d(4), nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        return self.classify(F.relu(self.norm(self.other(x))))

    def classify(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.fc_norm(F.avg_pool2d(x, 2)).flatten(1)))


def test_parameters_are_read_by_their_names(generator) -> None:
    """Against copies of the network with other parameters, BatchNorms in training mode."""
    net = Named().double()
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=generator)

    def read(power) -> nn.Module:
        changed = copy.deepcopy(net).train()
        for name, parameter in changed.named_parameters():
            if "bn" not in name and "fc" not in name:
                parameter.data = power(parameter.data)
        return changed

    def without_gates(network: nn.Module, x: Tensor, gates=(1.0, 1.0)) -> Tensor:
        x = network.bn(network.conv(x)) * gates[0]
        return network.classify(network.norm(network.other(x)) * gates[1])

    net.eval()
    first = net.bn(net.conv(x))
    second = net.norm(net.other(F.relu(first)))
    g = without_gates(read(torch.ones_like), x**2, ((first > 0).double(), (second > 0).double())).sum(0)
    kernel = read(torch.square)
    r = (g.detach() * without_gates(kernel, torch.ones_like(x[:1]))).sum()
    weights = {name: kernel.get_parameter(name) for name in prunable(net)}
    gradients = torch.autograd.grad(r, list(weights.values()))
    scores = PX(bn="released").score(net, [x])
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        # The classifier is read as it is, and its gradient multiplied by theta**2 all the same.
        factor = net.get_parameter(name).detach() ** 2 if "fc" in name else weight.detach()
        expected = (factor * gradient).abs()
        assert expected.max() > 1e-3
        torch.testing.assert_close(scores[name], expected, rtol=1e-9, atol=1e-12)
    net.fc1.weight.data[0, 0] = 0
    assert all(score.isfinite().all() for score in PX(bn="released").score(net, [x]).values())


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
