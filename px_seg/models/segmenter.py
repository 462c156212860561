"""DeepLabV3+ of segmentation-models-pytorch."""

import difflib

import segmentation_models_pytorch as smp
import timm
from torch import nn

from px_seg.errors import InputError
from px_seg.models.weights import check_weights, load_encoder

ATROUS_RATES: dict[int, tuple[int, int, int]] = {8: (12, 24, 36), 16: (6, 12, 18)}
"""ASPP rates by output stride (Chen et al., 2018, section 4): they cover the same area."""


def build_segmenter(
    encoder: str = "resnet50", classes: int = 21, weights: str = "imagenet", output_stride: int = 16
) -> nn.Module:
    """DeepLabV3+ with the named encoder: images (N, 3, H, W) to logits (N, classes, H, W).

    H and W must be multiples of the output stride. `weights` is where the encoder starts:
    `imagenet`, `none` (random), or a file; see `px_seg.models.weights.load_encoder`. The rest
    starts random, from torch's global generator.

    Raises InputError for an encoder that is unknown or cannot be dilated, an output stride
    other than 8 and 16, and weights that cannot be had.
    """
    check_segmenter(encoder, weights, output_stride)
    try:
        model = smp.DeepLabV3Plus(
            encoder_name=encoder,
            # The weights are loaded below: a model saved with this argument set to a name would
            # need the network again to be read back.
            encoder_weights=None,
            encoder_output_stride=output_stride,
            decoder_atrous_rates=ATROUS_RATES[output_stride],
            classes=classes,
        )
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"DeepLabV3+ cannot be built on {encoder} at stride {output_stride}: {error}") from None
    load_encoder(model.encoder, encoder, weights)
    return model


def check_segmenter(encoder: str, weights: str, output_stride: int) -> None:
    """Raise InputError for an unknown encoder or stride, or weights in a file that is not there."""
    if output_stride not in ATROUS_RATES:
        raise InputError(f"output_stride must be 8 or 16, got {output_stride}")
    check_weights(weights)
    if encoder.startswith("tu-"):
        known = [f"tu-{name}" for name in timm.list_models()]
        valid = encoder.split(".")[0] in known
    else:
        known = smp.encoders.get_encoder_names()
        valid = encoder in known
    if not valid:
        near = difflib.get_close_matches(encoder, known, n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(
            f"there is no encoder {encoder!r}: {hint}Valid ones are resnet18, resnet34, resnet50, resnet101, "
            "resnet152, the others of segmentation_models_pytorch.encoders.get_encoder_names(), "
            "and tu-NAME for timm's"
        )
