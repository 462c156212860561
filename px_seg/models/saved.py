"""Models that runs saved."""

import json
from pathlib import Path

import segmentation_models_pytorch as smp
from torch import nn

from px_seg.errors import InputError
from px_seg.models.classifier import Classifier


def load_model(folder: str | Path) -> nn.Module:
    """The segmenter or classifier in a run's `model` folder, read by its library's own `from_pretrained`.

    Raises InputError when there is none.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise InputError(f"there is no model in {folder}: config.json is missing")
    # segmentation-models-pytorch notes which of its classes to build.
    by_smp = "_model_class" in json.loads(config.read_text())
    return smp.from_pretrained(str(folder)) if by_smp else Classifier.from_pretrained(str(folder))
