"""Backbones by name: those of segmentation-models-pytorch and timm, and two for small images."""

import difflib
from collections.abc import Callable

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock

from px_seg.errors import InputError, one_line


class ResNet20(nn.Module):
    """The ResNet of 20 layers for CIFAR: images (N, 3, H, W) to features at strides 1, 1, 1, 2 and 4.

    He et al. (2016, section 4.2), with 1x1 convolutions for the two shortcuts that widen, as the
    lottery-ticket literature has it. The last features are (N, 64, H / 4, W / 4), rounded up.
    """

    out_channels = (3, 16, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._layer(16, 16, 1)
        self.layer2 = self._layer(16, 32, 2)
        self.layer3 = self._layer(32, 64, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(inside: int, outside: int, stride: int) -> nn.Sequential:
        shortcut = None
        if inside != outside:
            shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        first = BasicBlock(inside, outside, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outside, outside) for _ in range(2)))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [images, self.relu(self.bn1(self.conv1(images)))]
        for layer in (self.layer1, self.layer2, self.layer3):
            features.append(layer(features[-1]))
        return features


def _resnet18_3x3() -> nn.Module:
    """ResNet-18 whose stem, one 3x3 convolution, keeps the image's size: the features' strides are 1 to 8."""
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    encoder.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder.maxpool = nn.Identity()
    return encoder


UNBUILDABLE = (ValueError, NotImplementedError, RuntimeError, TypeError, KeyError, AttributeError, AssertionError)
"""What the libraries raise for an encoder that has no feature maps."""

SMALL: dict[str, Callable[[], nn.Module]] = {"resnet20": ResNet20, "resnet18_3x3": _resnet18_3x3}
"""Backbones for images of 32 or 64 pixels. They cannot be dilated, so they make no segmenter."""


def build_encoder(name: str) -> nn.Module:
    """The backbone, initialised from torch's global generator: images (N, 3, H, W) to a list of features.

    The last features are the deepest; `out_channels` has the channels of each. Raises InputError for an unknown name.
    """
    check_encoder(name)
    try:
        return SMALL[name]() if name in SMALL else smp.encoders.get_encoder(name, weights=None)
    except UNBUILDABLE as error:
        raise InputError(f"{name} cannot be built as a backbone: {one_line(error)}") from error


def zero_scales(encoder: nn.Module) -> list[str]:
    """A line for the BatchNorms whose scale is 0 throughout; none where there are none.

    timm initialises the last one of every residual branch this way. Whatever scores by the outputs, PX included, then
    gives the branch 0 and prunes it first.
    """
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm) and module.weight is not None]
    zero = sum(not module.weight.count_nonzero() for module in norms)
    if not zero:
        return []
    return [
        f"{zero} of the backbone's {len(norms)} BatchNorms have scale 0, as timm initialises residual branches: the "
        "weights before them score 0 with all methods that use the outputs, and are pruned first; trained weights "
        "avoid this"
    ]


def check_encoder(name: str) -> None:
    """Raise InputError for a name that no backbone has, suggesting similar ones, and for a tag that timm's has not."""
    if name.startswith("tu-"):
        known = [f"tu-{architecture}" for architecture in timm.list_models()]
        architecture, _, tag = name.partition(".")
        valid = architecture in known
        if valid and tag:
            check_timms_tag(architecture.removeprefix("tu-"), tag)
    else:
        known = [*SMALL, *smp.encoders.get_encoder_names()]
        valid = name in known
    if not valid:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(
            f"there is no encoder {name!r}: {hint}Valid ones are resnet18, resnet34, resnet50, resnet101, "
            "resnet152, the others of segmentation_models_pytorch.encoders.get_encoder_names(), "
            f"tu-NAME for timm's, and for classification {', '.join(SMALL)}"
        )


def timms_tags(architecture: str) -> list[str]:
    """Of timm's weights for an architecture: a1_in1k and others for resnet50."""
    return [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]


def check_timms_tag(architecture: str, tag: str) -> None:
    """Raise InputError for weights that timm does not have for an architecture, naming those that it has."""
    tags = timms_tags(architecture)
    if tag not in tags:
        raise InputError(f"timm has no weights {tag!r} for {architecture}: choose one of {', '.join(tags)}")
