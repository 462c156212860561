"""Models that runs saved."""

import json
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from safetensors.torch import load_file
from safetensors.torch import load_model as load_weights
from torch import nn

from px_seg.errors import InputError, one_line
from px_seg.models.classifier import Classifier
from px_seg.models.narrow import cut_to


def load_model(folder: str | Path) -> nn.Module:
    """The segmenter or classifier of a run, from its folder or the `model` folder in it, in eval mode.

    Also one that `px_seg.compact` made smaller, whose `save_pretrained` wrote it.

    Raises InputError when there is none, or its files are damaged.
    """
    inside = Path(folder) / "model"
    folder = inside if inside.is_dir() else Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"there is no model in {folder}: config.json is missing")
    try:
        return _loaded(json.loads(config.read_text()), folder / "model.safetensors")
    except Exception as error:
        # Damaged files fail in whatever reads them first.
        raise InputError(f"the model in {folder} cannot be read: {one_line(error, 200)}") from error


def _loaded(config: dict[str, Any], weights: Path) -> nn.Module:
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    # segmentation-models-pytorch notes which of its classes to build.
    if "_model_class" in config:
        model = getattr(smp, config["_model_class"])(**{**settings, "encoder_weights": None})
    else:
        model = Classifier(**settings)
    sizes, state = {name: tensor.shape for name, tensor in model.state_dict().items()}, load_file(weights)
    if any(sizes.get(name) != tensor.shape for name, tensor in state.items()):
        model = cut_to(model, state)
    load_weights(model, weights)
    return model.eval()
