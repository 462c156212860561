"""Networks as a graph can hold them whose images have any size.

A graph of tensors knows sizes as expressions of the image's height and width. Those of padding that depends on the
size soon take torch.export minutes or hours, unless they are written so that they cancel.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.models import whole_logits
from px_seg.pruning.compaction.narrow import constants_as_biases

PADS_TO_FIT = ("Conv2dSame", "Conv2dDynamicSamePadding", "SameConv2d")
"""Convolutions that pad by the size of their input, of timm and of segmentation-models-pytorch, whose is private."""


class AnySize(nn.Module):
    """A segmenter as `px_seg.models.whole_logits` applies it."""

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, image: Tensor) -> Tensor:
        return whole_logits(self.network, image, self.stride)


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) pixels a side, TensorFlow's SAME."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride, dilation in zip(
            x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            reach = (kernel - 1) * dilation + 1
            # What the last step leaves of a side is (side - 1) % stride + 1 pixels, without a step 1.
            total = max(reach - ((side - 1) % stride + 1), 0) if stride > 1 else reach - 1
            pads = [total // 2, total - total // 2, *pads]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def of_any_size(model: nn.Module, stride: int | None) -> nn.Module:
    """A copy of a network in eval mode, ready for torch.export.

    `stride` is what a segmenter wants to divide the sides of its images, None for a classifier.
    """
    try:
        fresh = copy.deepcopy(model).eval()
    except (RuntimeError, TypeError) as error:
        raise InputError(f"this {type(model).__name__} cannot be copied, as exporting does: {error}") from error
    for module in fresh.modules():
        if pads_to_fit(module):
            module.__class__ = SameConv2d
    constants_as_biases(fresh)
    if stride is None:
        return fresh
    if hasattr(fresh, "requires_divisible_input_shape"):
        # segmentation-models-pytorch's own check, which a graph cannot hold.
        vars(fresh)["requires_divisible_input_shape"] = False
    return AnySize(fresh, stride).eval()


def pads_to_fit(module: nn.Module) -> bool:
    """Whether a module is a convolution that pads by the size of its input."""
    return isinstance(module, nn.Conv2d) and type(module).__name__ in PADS_TO_FIT
