"""Networks that take images of certain sizes, on images of any."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

COARSEST = 32
"""A multiple of it is a side that every convolutional network takes."""


def stride_of(model: nn.Module) -> int:
    """What has to divide the sides of a segmenter's images, as far as it or its encoder says so by `output_stride`."""
    own: Any = next((part for part in (model, getattr(model, "encoder", None)) if hasattr(part, "output_stride")), None)
    return COARSEST if own is None else int(own.output_stride)


def whole_logits(network: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """The logits (N, C, H, W) of images (N, 3, H, W) of any size.

    Images are padded by 0 at the right and below to sides that `stride` divides, and logits are cropped back.
    """
    height, width = images.shape[-2:]
    # Written so that torch.export, whose sizes are expressions, sees that the stride divides the sum, and without
    # negative numbers, which ONNX divides towards 0.
    below, right = ((side + stride - 1) // stride * stride - side for side in (height, width))
    return network(F.pad(images, (0, right, 0, below)))[..., :height, :width]
