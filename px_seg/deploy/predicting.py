"""Images of any size segmented by a network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg.data.normalisation import Normalisation
from px_seg.errors import InputError
from px_seg.models import COARSEST, Classifier, channels_of, least_side_of, normalisation_in, stride_of, whole_logits
from px_seg.pruning.modes import evaluating

_EXPECTED = "predict takes one that returns logits (N, classes, H, W), of two classes or more"


@dataclass(frozen=True)
class Views:
    """How often, and in which sizes, a network looks at an image.

    Args:
        flip: at its mirror image too
        scales: at its sides times each of these
        window: at squares of so many pixels, a third of each on the next, of images that are larger

    Where there are several, class probabilities are averaged; where there is one, logits decide, as in evaluation.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: int | None = None

    def __post_init__(self) -> None:
        numbers = isinstance(self.scales, tuple) and all(isinstance(scale, int | float) for scale in self.scales)
        if not numbers or not self.scales or not all(1 / 16 <= scale <= 16 for scale in self.scales):
            raise InputError(f"scales must be factors from 1/16 to 16, got {self.scales!r}")
        if self.window is not None and (not isinstance(self.window, int) or self.window < 2 * COARSEST):
            raise InputError(f"a window must have a side of at least {2 * COARSEST} pixels, got {self.window}")


class Segmenter(NamedTuple):
    """What predicts, whatever carries it out."""

    network: Callable[[Tensor], Tensor]
    """Of images (N, C, H, W), normalised, whose sides `stride` divides, to logits (N, classes, H, W)."""
    normalisation: Normalisation
    stride: int
    least: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module) -> "Segmenter":
        """Of a model of this or another library. InputError for one that does not say how images are normalised."""
        if isinstance(model, Classifier):
            raise InputError("a Classifier gives an image one class: predict takes a segmenter")
        parameter = next(model.parameters(), torch.zeros(()))
        return cls(
            model, normalisation_in(model), stride_of(model), least_side_of(model), parameter.device, parameter.dtype
        )

    @property
    def channels(self) -> int:
        """Of its images."""
        return len(self.normalisation.mean)

    def logits(self, images: Tensor) -> Tensor:
        """(N, classes, H, W) of normalised images of any size. InputError for a network that returns anything else."""
        return whole_logits(self._checked, images, self.stride, self.least)

    def _checked(self, padded: Tensor) -> Tensor:
        found = self.network(padded)
        if not isinstance(found, Tensor):
            raise InputError(f"the network returns a {type(found).__name__}: {_EXPECTED}")
        if found.dim() != 4 or found.shape[1] < 2 or found.shape[2:] != padded.shape[2:]:
            raise InputError(f"the network returns {tuple(found.shape)} for images {tuple(padded.shape)}: {_EXPECTED}")
        return found

    def labels(self, images: np.ndarray, views: Views) -> np.ndarray:
        """(N, H, W) uint8, the class of every pixel of images (N, H, W, C) uint8, RGB where they are 3.

        Raises InputError where they take more memory than there is, and for a network that does not return finite
        logits of two classes or more for every pixel.
        """
        try:
            return self._labels(images, views)
        except (MemoryError, RuntimeError) as error:
            # On the CPU torch says that it "can't allocate", in an error of no class of its own.
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
                size = f"{images.shape[2]}x{images.shape[1]}"
                raise InputError(
                    f"{len(images)} of {size} pixels take more memory than there is: give a smaller window or batch"
                ) from error
            raise

    @torch.inference_mode()
    def _labels(self, images: np.ndarray, views: Views) -> np.ndarray:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in self.normalisation)
        normalised = ((pixels / 255 - mean) / std).to(self.dtype)
        scores = _scores(self, normalised, views)
        if scores.shape[1] > 256:
            raise InputError(f"{scores.shape[1]} classes do not fit into a byte a pixel")
        if scores.isnan().any():
            raise InputError("the network returns NaN: its weights are damaged, or its numbers overflow")
        return scores.argmax(1).to(torch.uint8).cpu().numpy()


def predict(
    model: nn.Module,
    image: np.ndarray,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    window: int | None = None,
) -> np.ndarray:
    """The class of every pixel, (H, W) uint8, of an image, (H, W, 3) uint8 RGB of any size; of as many channels as the
    model's images have, where they are not 3.

    The image is normalised as `model.normalisation` says, which `px_seg.load_model` and `px_seg.build_segmenter` set,
    and padded to what the network takes. `flip` averages class probabilities with those of the mirror image, `scales`
    over sizes of the image, and with `window` a larger image is seen in squares of that side, a third of each on the
    next. The model runs where it is, in eval mode, and comes back as it was.

    Raises InputError for what is no such image, and for a model that says no normalisation or is a classifier.
    """
    views = Views(flip, tuple(scales) if isinstance(scales, Sequence) else (scales,), window)
    image = np.asarray(image)
    channels = channels_of(model)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise InputError(f"predict takes an image (H, W, {channels}) of uint8, got {image.shape} of {image.dtype}")
    segmenter = Segmenter.of(model)
    with evaluating(model):
        return segmenter.labels(image[None].copy(), views)[0]


def _scores(segmenter: Segmenter, images: Tensor, views: Views) -> Tensor:
    """(N, classes, H, W): logits, or probabilities averaged over several views."""
    if not views.flip and views.scales == (1.0,):
        return _windowed(segmenter, images, views.window)
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale, flip in product(views.scales, (False, True) if views.flip else (False,)):
        seen = images if scale == 1 else _resized(images, [max(1, round(side * scale)) for side in size])
        logits = _windowed(segmenter, seen.flip(-1) if flip else seen, views.window)
        probabilities = (logits.flip(-1) if flip else logits).float().softmax(1)
        probabilities = probabilities if scale == 1 else _resized(probabilities, size)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    # Not every type of number can be resized everywhere.
    resized = F.interpolate(images.float(), size=list(size), mode="bilinear", align_corners=False, antialias=True)
    return resized.to(images.dtype)


def _windowed(segmenter: Segmenter, images: Tensor, window: int | None) -> Tensor:
    """Logits of the images, seen whole or, above the size of a window, averaged over windows."""
    size = images.shape[-2:]
    if window is None or max(size) <= window:
        return segmenter.logits(images)
    total, seen = torch.zeros(()), torch.zeros(size, device=images.device)
    for top, left in product(*(_places(side, window) for side in size)):
        place = (..., slice(top, top + window), slice(left, left + window))
        logits = segmenter.logits(images[place])
        if not total.dim():
            total = logits.new_zeros((*logits.shape[:2], *size))
        total[place] += logits
        seen[place] += 1
    return total.div_(seen)


def _places(side: int, window: int) -> list[int]:
    """Where windows begin that cover a side, evenly spread, each at least a third on the next."""
    count = max(1, -(-3 * (side - window) // (2 * window)) + 1)
    return [round(number * max(0, side - window) / max(1, count - 1)) for number in range(count)]
