"""Networks that take images of certain sizes, on images of any."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

LEAST = {"PAN": 128}
"""By the name of the class, sides below which a segmenter pools to nothing."""

COARSEST = 32
"""A multiple of it is a side that every convolutional network takes."""


def stride_of(model: nn.Module) -> int:
    """What has to divide the sides of a segmenter's images, as far as it or its encoder says so by `output_stride`."""
    own: Any = next((part for part in (model, getattr(model, "encoder", None)) if hasattr(part, "output_stride")), None)
    return COARSEST if own is None else int(own.output_stride)


def least_side_of(model: nn.Module) -> int:
    """Pixels that each side of a segmenter's images must have at least, as far as that is known by its class."""
    return LEAST.get(type(model).__name__, 0)


def whole_logits(network: Callable[[Tensor], Tensor], images: Tensor, stride: int, least: int = 0) -> Tensor:
    """The logits (N, C, H, W) of images (N, 3, H, W) of any size.

    Images are padded by 0 at the right and below to sides that `stride` divides, which are at least `least`, a
    multiple of it, and logits are cropped back.
    """
    height, width = images.shape[-2:]
    # Written so that torch.export, whose sizes are expressions, sees that the stride divides the sum, and without
    # negative numbers, which ONNX divides towards 0.
    below, right = ((side + stride - 1) // stride * stride - side for side in (height, width))
    if least:
        below, right = max(below, least - height), max(right, least - width)
    return network(F.pad(images, (0, right, 0, below)))[..., :height, :width]


class Views(NamedTuple):
    """How an image is looked at, all views in the mean."""

    flip: bool = False
    """Mirrored as well."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of its size."""
    window: int | None = None
    """Side of windows that cover what is larger; None for the whole at once."""


WHOLE = Views()


def viewed_scores(network: Callable[[Tensor], Tensor], images: Tensor, stride: int, views: Views = WHOLE) -> Tensor:
    """Scores (N, C, H, W) of images (N, 3, H, W) of any size, the class with the highest being the prediction.

    The logits of one view as they are; of several the mean of their softmax, each resized to the images' size. In
    windows, logits are means over those that a pixel is in.
    """

    least = least_side_of(network) if isinstance(network, nn.Module) else 0

    def whole(part: Tensor) -> Tensor:
        return whole_logits(network, part, stride, least)

    def logits_of(view: Tensor) -> Tensor:
        if views.window is None or max(view.shape[-2:]) <= views.window:
            return whole(view)
        return _windowed(whole, view, views.window)

    if len(views.scales) == 1 and views.scales[0] == 1 and not views.flip:
        return logits_of(images)
    # One after the other: those of many classes take much memory.
    total = sum(logits.float().softmax(1) for logits in _views(logits_of, images, views))
    assert isinstance(total, Tensor)
    return total / (len(views.scales) * (2 if views.flip else 1))


def _views(logits_of: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Iterator[Tensor]:
    """The logits of every view, in the images' own size and direction."""
    size = images.shape[-2:]
    for scale in views.scales:
        sides = [max(1, round(scale * side)) for side in size]
        scaled = images if tuple(sides) == tuple(size) else _resized(images, sides)
        for mirrored in (False, True) if views.flip else (False,):
            logits = logits_of(scaled.flip(-1) if mirrored else scaled)
            logits = logits.flip(-1) if mirrored else logits
            yield logits if logits.shape[-2:] == size else _resized(logits, list(size))


def _resized(values: Tensor, size: list[int]) -> Tensor:
    # Made smaller without this, a picture has patterns that were not in it.
    smaller = size[0] < values.shape[-2]
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=smaller)


def _windowed(logits_of: Callable[[Tensor], Tensor], images: Tensor, side: int) -> Tensor:
    """The logits of windows that cover the images and overlap by a third, or more at the far edges.

    They are squares, or as narrow as the images are.
    """
    height, width = images.shape[-2:]
    total, seen = None, images.new_zeros(1, 1, height, width)
    for top in _starts(height, side):
        for left in _starts(width, side):
            place = (..., slice(top, top + side), slice(left, left + side))
            logits = logits_of(images[place])
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
            total[place] += logits
            seen[place] += 1
    assert total is not None
    return total / seen


def _starts(length: int, side: int) -> list[int]:
    """Where windows of one side begin, the last one at the end."""
    step = max(1, round(side * 2 / 3))
    return sorted({min(start, max(0, length - side)) for start in range(0, max(1, length - side + step), step)})
