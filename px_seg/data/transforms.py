"""From a sample to tensors, through albumentations. Nothing else in the project imports it."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

# albumentations looks for a newer version of itself on the network when imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from px_seg.config import ClassificationDataConfig
from px_seg.data.base import IGNORE, LabelledImage, Sample
from px_seg.data.images import as_rgb
from px_seg.data.normalisation import Normalisation
from px_seg.errors import InputError, one_line

T = TypeVar("T")

SAVED = "albumentations_config_eval.json"
"""Where albumentations keeps the transform of evaluation in a model's folder."""


class Transform(Protocol):
    """(sample, seed) -> image (C, H, W) float32 normalised, and its labels: (H, W) int64, or one class, () int64."""

    def __call__(self, sample: Sample | LabelledImage, seed: int) -> tuple[Tensor, Tensor]: ...

    def packed(self, sample: Sample | LabelledImage, seed: int) -> tuple[Tensor, Tensor]:
        """The same in a fifth of the bytes, for processes to hand over: (C, H, W) and (H, W) uint8, or () int64."""

    def unpacked(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What a call returns, from what `packed` does: of one sample or of a batch, where they are."""

    def save(self, folder: Path) -> None:
        """Write it to a model's folder, from where `saved_normalisation` and albumentations read it."""


class _Pipeline:
    def __init__(self, *steps: A.BasicTransform, normalisation: Normalisation) -> None:
        self._steps, self._normalisation = A.Compose(list(steps)), normalisation

    def __call__(self, sample: Sample | LabelledImage, seed: int) -> tuple[Tensor, Tensor]:
        return self.unpacked(*self.packed(sample, seed))

    def packed(self, sample: Sample | LabelledImage, seed: int) -> tuple[Tensor, Tensor]:
        self._steps.set_random_seed(seed)
        if isinstance(sample, LabelledImage):
            return _planes(self._steps(image=sample.image)["image"]), torch.tensor(sample.label)
        done = self._steps(image=sample.image, mask=sample.mask)
        return _planes(done["image"]), torch.from_numpy(np.ascontiguousarray(done["mask"]))

    def unpacked(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As A.Normalize and ToTensorV2 have them, bitwise, in less time."""
        mean, scale = _shift(self._normalisation, images.device)
        return images.to(torch.float32).sub_(mean).mul_(scale), labels.to(torch.int64)

    def save(self, folder: Path) -> None:
        """For `albumentations.Compose.from_pretrained(folder)`."""
        A.Compose([*self._steps.transforms, A.Normalize(*self._normalisation), ToTensorV2()]).save_pretrained(folder)


@cache
def _shift(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """What is taken from the bytes of every channel, and by what they are multiplied then; copying it takes a wait."""
    mean, std = (255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in normalisation)
    return mean, std.reciprocal()


def _planes(image: np.ndarray) -> Tensor:
    """An image (H, W, C) as (C, H, W), laid out as a batch will be."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def saved_normalisation(folder: Path) -> Normalisation | None:
    """That of the transform saved in a model's folder; None where none was. InputError for one that is damaged."""
    file = folder / SAVED
    if not file.is_file():
        return None
    try:
        steps = A.Compose.from_pretrained(folder).transforms
        (found,) = (step for step in steps if isinstance(step, A.Normalize))
        return Normalisation.of(found.mean, found.std)
    except Exception as error:
        # A damaged file fails in whatever of albumentations reads it.
        raise InputError(
            f"{file} is no transform with one normalisation ({one_line(error, 160)}): restore it, or delete it to "
            "normalise images as for the encoder's own weights"
        ) from error


def _fill(normalisation: Normalisation) -> dict[str, object]:
    """The mean colour, 0 once it is normalised, where there is no image.

    Of more than four channels, which OpenCV does not fill one by one, the mean of it.
    """
    colour = tuple(255 * mean for mean in normalisation.mean)
    fill = colour if len(colour) <= 4 else sum(colour) / len(colour)
    return {"fill": fill, "border_mode": cv2.BORDER_CONSTANT}


def training(size: int, scale: Sequence[float], stride: int, normalisation: Normalisation) -> Transform:
    """Random scale, random crop of `size` and random flip, a pure function of sample and seed.

    `scale` bounds the factor, 1 meaning unchanged. What the image does not cover, and what
    rounds `size` up to a multiple of `stride`, is the mean colour and ignored by the loss.
    """
    if len(scale) != 2 or not 1 / 8 <= scale[0] <= scale[1] <= 8:
        raise InputError(f"data.scale must be two factors between 1/8 and 8, the smaller first, got {list(scale)}")
    low, high = scale
    fill = {**_fill(normalisation), "fill_mask": IGNORE}
    return _Pipeline(
        A.RandomScale((low - 1, high - 1), interpolation=cv2.INTER_LINEAR, p=1),
        A.PadIfNeeded(size, size, **fill),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5),
        A.PadIfNeeded(None, None, stride, stride, position="top_left", **fill),
        normalisation=normalisation,
    )


def _whole(size: int) -> list[A.BasicTransform]:
    return []


def _centre_crop(size: int) -> list[A.BasicTransform]:
    return [A.SmallestMaxSize(size, interpolation=cv2.INTER_LINEAR), A.CenterCrop(size, size)]


EVALUATION: dict[str, Callable[[int], list[A.BasicTransform]]] = {"whole": _whole, "centre_crop": _centre_crop}
"""How an image is prepared to be segmented: as it is, or with its short side resized, then cropped."""


def evaluation(name: str, size: int, normalisation: Normalisation) -> Transform:
    """The evaluation transform of that name; it draws nothing, so the seed does not matter."""
    return _Pipeline(*_named(EVALUATION, "data.evaluation", name)(size), normalisation=normalisation)


def centre_crop_to_stride(size: int, stride: int, normalisation: Normalisation) -> Transform:
    """Short side resized to `size`, then cropped to its centre, and filled up to a multiple of `stride`."""
    return _Pipeline(
        A.SmallestMaxSize(size, interpolation=cv2.INTER_LINEAR),
        A.CenterCrop(size, size),
        A.PadIfNeeded(None, None, stride, stride, position="top_left", **_fill(normalisation), fill_mask=IGNORE),
        normalisation=normalisation,
    )


def _padded(config: ClassificationDataConfig, normalisation: Normalisation) -> list[A.BasicTransform]:
    size, padding = config.size, config.padding
    if not 0 <= padding <= size:
        raise InputError(f"data.padding must be at least 0 and at most data.size, got {padding}")
    return [A.Resize(size, size), A.Pad(padding, **_fill(normalisation)), A.RandomCrop(size, size)]


def _area(config: ClassificationDataConfig, normalisation: Normalisation) -> list[A.BasicTransform]:
    if len(config.area) != 2 or not 0 < config.area[0] <= config.area[1] <= 1:
        raise InputError(f"data.area must be two shares above 0 and at most 1, the smaller first, got {config.area}")
    if len(config.ratio) != 2 or not 0.1 <= config.ratio[0] <= config.ratio[1] <= 10:
        raise InputError(f"data.ratio must be two numbers from 0.1 to 10, the smaller first, got {config.ratio}")
    return [A.RandomResizedCrop((config.size, config.size), scale=tuple(config.area), ratio=tuple(config.ratio))]


CROPS: dict[str, Callable[[ClassificationDataConfig, Normalisation], list[A.BasicTransform]]] = {
    "padded": _padded,
    "area": _area,
}
"""How a training image to be classified is cropped: by a shift, or to a random part of it."""


def classifier_training(config: ClassificationDataConfig, normalisation: Normalisation) -> Transform:
    """Random crop, then grey, jitter and flip as configured; the image a square of `config.size`.

    A pure function of sample and seed. Raises InputError for settings out of their range.
    """
    if not 0 <= config.jitter <= 1 or not 0 <= config.grey <= 1:
        raise InputError(f"data.jitter and data.grey must be in [0, 1], got {config.jitter} and {config.grey}")
    if not 0 <= config.hue <= 0.5:
        raise InputError(f"data.hue must be in [0, 0.5], got {config.hue}")
    steps = _named(CROPS, "data.crop", config.crop)(config, normalisation)
    if config.grey:
        steps.append(A.ToGray(p=config.grey))
    if config.jitter or config.hue:
        factor = (1 - config.jitter, 1 + config.jitter)
        steps.append(A.ColorJitter(factor, factor, factor, (-config.hue, config.hue), p=1))
    return _Pipeline(*steps, A.HorizontalFlip(p=0.5 if config.flip else 0), normalisation=normalisation)


def _resized(size: int) -> list[A.BasicTransform]:
    return [A.Resize(size, size)]


def _inner(size: int) -> list[A.BasicTransform]:
    return [A.SmallestMaxSize(round(size * 8 / 7)), A.CenterCrop(size, size)]


CLASSIFIER_EVALUATION: dict[str, Callable[[int], list[A.BasicTransform]]] = {"resize": _resized, "centre_crop": _inner}
"""How an image is prepared to be classified: made square, or cropped to its middle, 224 of a short side of 256."""


def classifier_evaluation(name: str, size: int, normalisation: Normalisation) -> Transform:
    """The evaluation transform of that name; it draws nothing, so the seed does not matter."""
    return _Pipeline(*_named(CLASSIFIER_EVALUATION, "data.evaluation", name)(size), normalisation=normalisation)


def _named(choices: Mapping[str, T], key: str, name: str) -> T:
    if name not in choices:
        raise InputError(f"there is no {key} {name!r}: choose one of {', '.join(choices)}")
    return choices[name]


def to_uint8(image: Tensor, normalisation: Normalisation) -> Tensor:
    """A normalised image (C, H, W) as (H, W, 3) uint8 RGB again, for a picture; see `px_seg.data.images.as_rgb`."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in normalisation)
    pixels = ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return torch.from_numpy(as_rgb(pixels.numpy()))
