"""How images are normalised for the weights that a backbone starts from: as they were when these were trained."""

from fnmatch import fnmatch

import timm
import torchvision
from torch import nn

from px_seg.data.normalisation import IMAGENET, SYMMETRIC, Normalisation
from px_seg.data.transforms import saved_normalisation
from px_seg.errors import InputError
from px_seg.models.formats import CLIP_ENCODER
from px_seg.models.weights import PUBLISHED, file_of, is_file, timm_name

EXCEPTIONS = {
    "inceptionv4": SYMMETRIC,
    "inceptionresnetv2": SYMMETRIC,
    "xception": SYMMETRIC,
    "timm-tf_efficientnet_lite*": SYMMETRIC,
    "dpn*": Normalisation((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
}
"""The encoders of segmentation-models-pytorch whose ImageNet weights were not trained with ImageNet's statistics.

Its `get_preprocessing_params` has the same from the network, which a run whose weights are in a cache does without.
"""


def tell_normalisation(model: nn.Module, normalisation: Normalisation | None) -> None:
    """Let a model say how its images are normalised, as its attribute `normalisation`."""
    # Not a tensor or a module, as torch has it of all attributes of modules.
    object.__setattr__(model, "normalisation", normalisation)


def normalisation_in(model: nn.Module) -> Normalisation:
    """What a model says of how its images are normalised. InputError for one that does not say it."""
    found = getattr(model, "normalisation", None)
    if found is None:
        raise InputError(
            f"this {type(model).__name__} does not say how its images are normalised: set model.normalisation = "
            "((mean, mean, mean), (std, std, std)), of colours in [0, 1], one a channel; px_seg.load_model and "
            "build_segmenter set it"
        )
    try:
        mean, std = found
        normalisation = Normalisation.of(mean, std)
        if all(0 <= value <= 1 for value in normalisation.mean) and all(0 < value < 100 for value in normalisation.std):
            return normalisation
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"model.normalisation must be means and standard deviations of colours in [0, 1], one a channel, got {found}"
    )


def channels_of(model: nn.Module) -> int:
    """How many channels a model's images have: as many as its normalisation, and 3 where it does not say it."""
    found = getattr(model, "normalisation", None)
    return 3 if found is None else len(normalisation_in(model).mean)


def normalisation_of(encoder: str, weights: str | None) -> Normalisation:
    """What the images were normalised by when such weights, which `check_weights` accepts, were trained.

    A model that a run saved, and a file in its folder, has what was saved with it. Of any other file, of a package and
    of random weights it is not known: they have what the encoder's library has for its own weights of that name.
    """
    kind, _, version = (weights or "none").partition(":")
    if kind == "torchvision":
        preset = torchvision.models.get_model_weights(encoder)[version].transforms()
        return Normalisation.of(preset.mean, preset.std)
    if kind == "timm":
        return _timms(timm_name(encoder, version))
    if weights == "clip":
        return _timms(CLIP_ENCODER.removeprefix("tu-"))
    if weights in PUBLISHED:
        return IMAGENET
    if weights is not None and is_file(weights):
        saved = saved_normalisation(file_of(weights).parent)
        if saved is not None:
            return saved
    if encoder.startswith("tu-"):
        return _timms(encoder.removeprefix("tu-"))
    return next((own for pattern, own in EXCEPTIONS.items() if fnmatch(encoder, pattern)), IMAGENET)


def _timms(name: str) -> Normalisation:
    """Of timm's weights `architecture.tag`, or of the default ones; ImageNet's for a network without weights."""
    settings = timm.models.get_pretrained_cfg(name)
    return IMAGENET if settings is None else Normalisation.of(settings.mean, settings.std)
