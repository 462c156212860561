"""Models that are saved and read back."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from safetensors.torch import load_model as load_weights
from torch import Tensor, nn

from px_seg.data.transforms import SAVED, evaluation, saved_normalisation
from px_seg.errors import InputError, one_line
from px_seg.models.classifier import Classifier
from px_seg.models.normalisations import normalisation_in, tell_normalisation
from px_seg.pruning.compaction.narrow import COMPACT, cut_to

WEIGHTS = "model.safetensors"
"""The file that libraries' own functions read."""

MODEL_FILES = (WEIGHTS, COMPACT, SAVED, "config.json", "README.md")
"""What `save_model` writes."""

_CARD = """# A compacted network

```python
import px_seg

model = px_seg.load_model(folder)
```
"""


def save_model(model: nn.Module, folder: str | Path, **card: Any) -> None:
    """Write a segmenter or classifier to a folder that `load_model` reads; `card` is for its description.

    The library's own `from_pretrained` reads it as well, except where `px_seg.compact` made it smaller. What
    `model.normalisation` says is written as a transform that albumentations reads. A model that was in the folder is
    replaced once the new one is written. Raises InputError for any other network.
    """
    if not isinstance(model, smp.base.SegmentationModel | Classifier):
        raise InputError(
            f"a {type(model).__name__} cannot be saved: save_model takes a segmenter of segmentation-models-pytorch or "
            "a px_seg.Classifier, and torch.save anything else"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
        fresh = Path(place)
        model.save_pretrained(fresh, **card)
        with torch.random.fork_rng(devices=[]):
            built = _built(json.loads((fresh / "config.json").read_text()))
        weights = COMPACT if _is_cut(built, model.state_dict()) else WEIGHTS
        if weights == COMPACT:
            (fresh / WEIGHTS).rename(fresh / COMPACT)
            (fresh / "README.md").write_text(_CARD)
        if getattr(model, "normalisation", None) is not None:
            evaluation("whole", 0, normalisation_in(model)).save(fresh)
        for file in fresh.iterdir():
            file.replace(folder / file.name)
    (folder / (WEIGHTS if weights == COMPACT else COMPACT)).unlink(missing_ok=True)


def weights_in(folder: Path) -> Path:
    """The file of weights that `save_model` wrote."""
    return folder / COMPACT if (folder / COMPACT).is_file() else folder / WEIGHTS


def is_compacted(folder: str | Path) -> bool:
    """Whether the network in a folder that `load_model` reads was made smaller."""
    return (_model_folder(folder) / COMPACT).is_file()


def built_as(folder: str | Path) -> nn.Module:
    """The network of a folder that `load_model` reads, dense and with new weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        return _built(json.loads((_model_folder(folder) / "config.json").read_text())).eval()


def _model_folder(folder: str | Path) -> Path:
    inside = Path(folder) / "model"
    return inside if inside.is_dir() else Path(folder)


def load_model(folder: str | Path) -> nn.Module:
    """The segmenter or classifier of a run, from its folder or the `model` folder in it, in eval mode.

    Also one that `px_seg.compact` made smaller. Raises InputError when there is none, or its files are damaged.
    """
    folder = _model_folder(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"there is no model in {folder}: config.json is missing")
    try:
        return _loaded(json.loads(config.read_text()), weights_in(folder))
    except Exception as error:
        # Damaged files fail in whatever reads them first.
        raise InputError(f"the model in {folder} cannot be read: {one_line(error, 200)}") from error


def _loaded(config: Mapping[str, Any], weights: Path) -> nn.Module:
    model, state = _built(config), load_file(weights)
    if weights.name == COMPACT:
        _check_cut(model, state)
        model = cut_to(model, state)
    # Here and not by the libraries, one of which warns of sizes in many lines and goes on.
    for name, tensor in model.state_dict().items():
        found = state.get(name, tensor).shape
        if found != tensor.shape:
            raise InputError(f"{name} has the shape {tuple(found)}, and in the network {tuple(tensor.shape)}")
    load_weights(model, weights)
    tell_normalisation(model, saved_normalisation(weights.parent))
    return model.eval()


def _built(config: Mapping[str, Any]) -> nn.Module:
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    # segmentation-models-pytorch notes which of its classes to build.
    if "_model_class" in config:
        return getattr(smp, config["_model_class"])(**{**settings, "encoder_weights": None})
    return Classifier(**settings)


def _check_cut(built: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise InputError for tensors that no compaction of the network has."""
    sizes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    for name, tensor in state.items():
        whole = sizes.get(name.replace(".layer.", "."), tensor.shape)
        if len(whole) != tensor.dim() or any(size > most for size, most in zip(tensor.shape, whole, strict=True)):
            raise InputError(f"{name} has the shape {tuple(tensor.shape)}, and in the network {tuple(whole)}")


def _is_cut(built: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether these are not the tensors that the network has as it is built."""
    sizes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    return any(sizes.get(name) != tensor.shape for name, tensor in state.items())
