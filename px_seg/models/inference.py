"""Networks that take images of certain sizes, on images of any."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def whole_logits(network: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """The logits (N, C, H, W) of images (N, 3, H, W) of any size.

    Images are padded by 0 at the right and below to sides that `stride` divides, and logits are cropped back.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % stride, 0, -height % stride))
    return network(padded)[..., :height, :width]
