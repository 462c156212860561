"""Channels scaled to the variance that they have in the dense network."""

from collections.abc import Mapping

from torch import Tensor, nn

from px_seg.repair.pairing import Layer, channels_last, side_by_side
from px_seg.wide import wide_dtype

SHRINKAGE = 0.01
"""What is added to both variances, as a share of the layer's mean. A channel of average variance is scaled by up to
tenfold, one of 25 times the average by up to fiftyfold."""


def with_variances(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor) -> nn.Module:
    """A copy of the model under `masks`, every output channel of every masked layer scaled in closed form.

    The correction of arXiv 2605.21426, with a shrinkage.

    The scale is sqrt((v + e) / (w + e)), with v the channel's variance over images and positions in the dense network,
    w that in the pruned one, and e = `SHRINKAGE` times the mean of v over the layer's channels. Behind a
    BatchNorm whose statistics are gathered anew the scale has no effect on the function.
    """

    def scale(layer: Layer, inputs: Tensor, wanted: Tensor) -> None:
        weight = layer.module.get_parameter("weight")
        target, own = (
            channels_last(layer.module, outputs).flatten(0, 1).to(wide_dtype(outputs.device)).var(0, unbiased=False)
            for outputs in (wanted, layer.module(inputs))
        )
        least = SHRINKAGE * target.mean()
        scales = ((target + least) / (own + least)).sqrt().where(least > 0, 1)
        weight.mul_(scales.to(weight).view(-1, *[1] * (weight.dim() - 1)))

    return side_by_side(model, masks, images, scale)
