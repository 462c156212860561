"""Models that runs saved."""

import json
from pathlib import Path

import segmentation_models_pytorch as smp
from torch import nn

from px_seg.errors import InputError, one_line
from px_seg.models.classifier import Classifier


def load_model(folder: str | Path) -> nn.Module:
    """The segmenter or classifier of a run, from its folder or the `model` folder in it, by its library's own reader.

    Raises InputError when there is none, or its files are damaged.
    """
    inside = Path(folder) / "model"
    folder = inside if inside.is_dir() else Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"there is no model in {folder}: config.json is missing")
    try:
        # segmentation-models-pytorch notes which of its classes to build.
        reader = smp if "_model_class" in json.loads(config.read_text()) else Classifier
        return reader.from_pretrained(str(folder), strict=True)
    except Exception as error:
        # Damaged files fail in whatever reads them first.
        raise InputError(f"the model in {folder} cannot be read: {one_line(error, 200)}") from error
