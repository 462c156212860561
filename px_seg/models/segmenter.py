"""The architectures of segmentation-models-pytorch around a backbone, DeepLabV3+ above all."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationModel

from px_seg.errors import InputError
from px_seg.models.encoders import SMALL, UNBUILDABLE, check_encoder
from px_seg.models.normalisations import normalisation_of, tell_normalisation
from px_seg.models.weights import check_weights, load_encoder

ATROUS_RATES: dict[int, tuple[int, int, int]] = {8: (12, 24, 36), 16: (6, 12, 18)}
"""ASPP rates by output stride (Chen et al., 2018, section 4): they cover the same area."""


class Architecture(NamedTuple):
    """A decoder and head around a backbone."""

    kind: type[SegmentationModel]
    stride: int | None = None
    """What has to divide the sides of its images; None where that is chosen, and the backbone dilated for it."""
    pooled: bool = False
    """Whether it normalises an average over the whole image, so that in training a batch needs two images."""
    without_paths: str | None = None
    """What of it has no paths, if anything has not, so that a criterion that walks them cannot score its backbone."""
    settings: Mapping[str, int] = {}
    """Of the library's class, where they are not its own defaults."""


DEFAULT = "deeplabv3plus"

ARCHITECTURES = {
    DEFAULT: Architecture(smp.DeepLabV3Plus, pooled=True),
    "deeplabv3": Architecture(smp.DeepLabV3, pooled=True),
    "unet": Architecture(smp.Unet, 32),
    "unetplusplus": Architecture(smp.UnetPlusPlus, 32),
    "linknet": Architecture(smp.Linknet, 32),
    # By itself it leaves the deeper stages unused, most of the backbone.
    "pspnet": Architecture(smp.PSPNet, 32, settings={"encoder_depth": 5, "upsampling": 32}),
    "segformer": Architecture(smp.Segformer, 32),
    "fpn": Architecture(smp.FPN, 32, without_paths="group normalisation"),
    "manet": Architecture(smp.MAnet, 32, without_paths="attention"),
    "pan": Architecture(smp.PAN, 16, pooled=True, without_paths="attention"),
    "upernet": Architecture(smp.UPerNet, 32, pooled=True, without_paths="layer normalisation"),
}
"""By the names that the library has for them in lower case."""


def build_segmenter(
    encoder: str = "resnet50",
    classes: int = 21,
    weights: str | None = "imagenet",
    output_stride: int = 16,
    architecture: str = DEFAULT,
    channels: int = 3,
) -> SegmentationModel:
    """A segmenter with the named encoder: images (N, `channels`, H, W) to logits (N, classes, H, W).

    `architecture` is one of `ARCHITECTURES`, by default DeepLabV3+. H and W must be multiples of the output stride,
    which is chosen for the DeepLabs alone (see `stride_for`); `px_seg.predict` takes images of any size. `weights` is
    where the encoder starts: a name, a file, or None or `none` (random); see `px_seg.models.load_encoder`. The rest
    starts random, from torch's global generator.

    Raises InputError for an architecture or encoder that is unknown, an encoder that cannot be dilated, an output
    stride other than 8 and 16, and weights that are not available.
    """
    check_segmenter(encoder, output_stride, architecture)
    check_weights(weights, encoder)
    kind, settings = ARCHITECTURES[architecture].kind, dict[str, Any](ARCHITECTURES[architecture].settings)
    if ARCHITECTURES[architecture].stride is None:
        settings = {"encoder_output_stride": output_stride, "decoder_atrous_rates": ATROUS_RATES[output_stride]}
    try:
        # The weights are loaded below: a model saved with this argument set to a name would need the network again to
        # be read back.
        model = kind(encoder_name=encoder, encoder_weights=None, in_channels=channels, classes=classes, **settings)
    except UNBUILDABLE as error:
        raise InputError(
            f"{kind.__name__} cannot be built on {encoder} at stride {stride_for(architecture, output_stride)}: {error}"
        ) from None
    load_encoder(model.encoder, encoder, weights)
    tell_normalisation(model, normalisation_of(encoder, weights).for_channels(channels))
    return model


def stride_for(architecture: str, output_stride: int) -> int:
    """What has to divide the sides of images, where a dilated backbone has this output stride."""
    own = ARCHITECTURES[architecture].stride
    return output_stride if own is None else own


def check_segmenter(encoder: str, output_stride: int, architecture: str = DEFAULT) -> None:
    """Raise InputError for what there is not, an encoder for classification only, and a wrong stride."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"there is no architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    if output_stride not in ATROUS_RATES:
        raise InputError(f"output_stride must be 8 or 16, got {output_stride}")
    check_encoder(encoder)
    if encoder in SMALL:
        name = ARCHITECTURES[architecture].kind.__name__
        raise InputError(f"{name} cannot be built on {encoder}, which is for classifying small images")
