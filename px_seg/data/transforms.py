"""From a sample to tensors, through albumentations. Nothing else in the project imports it."""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

# albumentations asks the network for its newest version when imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from px_seg.data.base import IGNORE, Sample
from px_seg.errors import InputError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Channel statistics of ImageNet, which the published backbones were trained with."""


class Transform(Protocol):
    """(sample, seed) -> image (3, H, W) float32 normalised, labels (H, W) int64."""

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]: ...


class _Pipeline:
    def __init__(self, *steps: A.BasicTransform) -> None:
        self._compose = A.Compose([*steps, A.Normalize(MEAN, STD), ToTensorV2()])

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        self._compose.set_random_seed(seed)
        done = self._compose(image=sample.image, mask=sample.mask)
        return done["image"], done["mask"].to(torch.int64)


def training(size: int, scale: Sequence[float], stride: int) -> Transform:
    """Random scale, random crop of `size` and random flip, a pure function of sample and seed.

    `scale` bounds the factor, 1 meaning unchanged. What the image does not cover, and what
    rounds `size` up to a multiple of `stride`, is the mean colour and ignored by the loss.
    """
    if len(scale) != 2 or not 1 / 8 <= scale[0] <= scale[1] <= 8:
        raise InputError(f"data.scale must be two factors between 1/8 and 8, the smaller first, got {list(scale)}")
    low, high = scale
    fill = {"fill": tuple(255 * mean for mean in MEAN), "fill_mask": IGNORE, "border_mode": cv2.BORDER_CONSTANT}
    return _Pipeline(
        A.RandomScale((low - 1, high - 1), interpolation=cv2.INTER_LINEAR, p=1),
        A.PadIfNeeded(size, size, **fill),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5),
        A.PadIfNeeded(None, None, stride, stride, position="top_left", **fill),
    )


def _whole(size: int) -> Transform:
    return _Pipeline()


def _centre_crop(size: int) -> Transform:
    return _Pipeline(A.SmallestMaxSize(size, interpolation=cv2.INTER_LINEAR), A.CenterCrop(size, size))


EVALUATION: dict[str, Callable[[int], Transform]] = {"whole": _whole, "centre_crop": _centre_crop}
"""How an image is shown for evaluation: as it is, or by its short side resized and cropped."""


def evaluation(name: str, size: int) -> Transform:
    """The evaluation transform of that name; it draws nothing, so the seed does not matter."""
    if name not in EVALUATION:
        raise InputError(f"there is no data.evaluation {name!r}: choose one of {', '.join(EVALUATION)}")
    return EVALUATION[name](size)


def to_uint8(image: Tensor) -> Tensor:
    """A normalised image (3, H, W) as (H, W, 3) uint8 RGB again, for a picture."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
