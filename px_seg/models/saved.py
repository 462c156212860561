"""Models that are saved and read back."""

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from safetensors.torch import load_model as load_weights
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from px_seg.data.transforms import SAVED, evaluation, saved_normalisation
from px_seg.errors import InputError, one_line
from px_seg.files import UNDER_WAY, parse_json
from px_seg.models.classifier import Classifier
from px_seg.models.encoders import check_encoder
from px_seg.models.normalisations import normalisation_in, tell_normalisation
from px_seg.pruning.compaction.narrow import COMPACT, cut_to

WEIGHTS = "model.safetensors"
"""The file that libraries' own functions read."""

LARGEST = 10**9
"""Weights of a network that are made room for because a file says so."""

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
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNDER_WAY) as place:
        fresh = Path(place)
        model.save_pretrained(fresh, **card)
        with torch.random.fork_rng(devices=[]):
            built = _built(parse_json((fresh / "config.json").read_text()))
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
    return (model_folder(folder) / COMPACT).is_file()


def built_as(folder: str | Path) -> nn.Module:
    """The network of a folder that `load_model` reads, dense and with new weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        return _built(parse_json((model_folder(folder) / "config.json").read_text())).eval()


def model_folder(folder: str | Path) -> Path:
    """Where the files of a network are that `load_model` reads: in the folder, or in `model` inside it."""
    inside = Path(folder) / "model"
    return inside if inside.is_dir() else Path(folder)


def load_model(folder: str | Path) -> nn.Module:
    """The segmenter or classifier of a run, from its folder or the `model` folder in it, in eval mode.

    Also one that `px_seg.compact` made smaller. Raises InputError when there is none, or its files are damaged.
    """
    folder = model_folder(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"there is no model in {folder}: config.json is missing")
    if not weights_in(folder).is_file():
        raise InputError(f"there is no model in {folder}: {WEIGHTS} is missing")
    try:
        return _loaded(parse_json(config.read_text()), weights_in(folder))
    except Exception as error:
        # Damaged files fail in whatever reads them first.
        raise InputError(f"the model in {folder} cannot be read: {one_line(error, 200)}") from error


def _loaded(config: Mapping[str, Any], weights: Path) -> nn.Module:
    sizes, state = _sizes(config), load_file(weights)
    if weights.name == COMPACT:
        _check_cut(sizes, state)
        model = cut_to(_network(config), state)
        _check_sizes({name: tensor.shape for name, tensor in model.state_dict().items()}, state)
    else:
        _check_sizes(sizes, state)
        model = _network(config)
    load_weights(model, weights)
    tell_normalisation(model, saved_normalisation(weights.parent))
    return model.eval()


def _built(config: Mapping[str, Any]) -> nn.Module:
    """The network that a configuration stands for, with new weights. InputError for one larger than `LARGEST`."""
    _sizes(config)
    return _network(config)


def _network(config: Mapping[str, Any]) -> nn.Module:
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    if "_model_class" not in config:
        return Classifier(**settings)
    # segmentation-models-pytorch notes which of its classes to build; it has functions too, which read files.
    kind = getattr(smp, str(config["_model_class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, smp.base.SegmentationModel)):
        raise InputError(f"{config['_model_class']!r} is no network of segmentation-models-pytorch")
    # Others would reach timm, where some name files that it opens, and some networks that it fetches.
    if other := sorted(settings.keys() - inspect.signature(kind).parameters.keys()):
        raise InputError(f"it has the setting {other[0]}, which {config['_model_class']} does not name")
    check_encoder(str(settings.get("encoder_name", "resnet34")))
    return kind(**{**settings, "encoder_weights": None})


class _Unfilled(TorchFunctionMode):
    """Within the context the tensors that modules make for their weights take no memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Not those that count layers, whose numbers are read.
        makes = func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if makes else {})})


def _sizes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """The shapes of the network's tensors, before any of it is in memory. InputError for more than `LARGEST`."""
    with _Unfilled():
        sizes = {name: tensor.shape for name, tensor in _network(config).state_dict().items()}
    total = sum(shape.numel() for shape in sizes.values())
    if total > LARGEST:
        raise InputError(f"it is said to have {total:,} weights, and no network here has more than {LARGEST:,}")
    return sizes


def _check_sizes(sizes: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Raise InputError for a tensor that has another shape in the network.

    Here and not by the libraries, one of which warns of sizes in many lines and goes on.
    """
    for name, expected in sizes.items():
        found = state[name].shape if name in state else expected
        if found != expected:
            raise InputError(f"{name} has the shape {tuple(found)}, and in the network {tuple(expected)}")


def _check_cut(sizes: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Raise InputError for tensors that no compaction of a network with these has."""
    for name, tensor in state.items():
        whole = sizes.get(name.replace(".layer.", "."), tensor.shape)
        if len(whole) != tensor.dim() or any(size > most for size, most in zip(tensor.shape, whole, strict=True)):
            raise InputError(f"{name} has the shape {tuple(tensor.shape)}, and in the network {tuple(whole)}")


def _is_cut(built: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether these are not the tensors that the network has as it is built."""
    sizes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    return any(sizes.get(name) != tensor.shape for name, tensor in state.items())
