"""DeepLabV3+ of segmentation-models-pytorch."""

import segmentation_models_pytorch as smp

from px_seg.errors import InputError
from px_seg.models.encoders import SMALL, UNBUILDABLE, check_encoder
from px_seg.models.normalisations import normalisation_of, tell_normalisation
from px_seg.models.weights import check_weights, load_encoder

ATROUS_RATES: dict[int, tuple[int, int, int]] = {8: (12, 24, 36), 16: (6, 12, 18)}
"""ASPP rates by output stride (Chen et al., 2018, section 4): they cover the same area."""


def build_segmenter(
    encoder: str = "resnet50", classes: int = 21, weights: str | None = "imagenet", output_stride: int = 16
) -> smp.DeepLabV3Plus:
    """DeepLabV3+ with the named encoder: images (N, 3, H, W) to logits (N, classes, H, W).

    H and W must be multiples of the output stride; `px_seg.predict` takes images of any size. `weights` is where the
    encoder starts: a name, a file, or None or `none` (random); see `px_seg.models.load_encoder`. The rest starts
    random, from torch's global generator.

    Raises InputError for an encoder that is unknown or cannot be dilated, an output stride
    other than 8 and 16, and weights that are not available.
    """
    check_segmenter(encoder, output_stride)
    check_weights(weights, encoder)
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
    except UNBUILDABLE as error:
        raise InputError(f"DeepLabV3+ cannot be built on {encoder} at stride {output_stride}: {error}") from None
    load_encoder(model.encoder, encoder, weights)
    tell_normalisation(model, normalisation_of(encoder, weights))
    return model


def check_segmenter(encoder: str, output_stride: int) -> None:
    """Raise InputError for an encoder that is unknown or for classification only, and for a wrong stride."""
    if output_stride not in ATROUS_RATES:
        raise InputError(f"output_stride must be 8 or 16, got {output_stride}")
    check_encoder(encoder)
    if encoder in SMALL:
        raise InputError(f"DeepLabV3+ cannot be built on {encoder}, which is for classifying small images")
