"""Where a backbone's weights come from."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from px_seg.errors import InputError


def check_weights(weights: str) -> None:
    """Raise InputError unless `weights` is `none`, `imagenet` or a file that exists."""
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise InputError(f"--weights takes imagenet, none or a file; there is no file {weights}")


def load_encoder(encoder: nn.Module, name: str, weights: str) -> None:
    """Fill `encoder`, an encoder of segmentation-models-pytorch called `name`, in place.

    `weights` is `none`, which leaves it as it is, `imagenet`, the library's own download, or
    a file: safetensors, or a torch file of tensors, with torchvision's names or the encoder's
    own. A classifier (`fc.*`) in it is left out; anything else must match, name for name and
    shape for shape.

    Raises InputError when a file is missing, unreadable or does not match, and when the
    download fails, naming the ways out. Never falls back on something else.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        encoder.load_state_dict(_imagenet(name))
        return
    state = _read(Path(weights))
    _match(encoder, state, weights)
    encoder.load_state_dict(state)


def _imagenet(name: str) -> Mapping[str, Tensor]:
    try:
        pretrained = smp.encoders.get_encoder(name, weights=True if name.startswith("tu-") else "imagenet")
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{name} has no ImageNet weights ({error}): give --weights FILE or --weights none") from None
    except Exception as error:
        # What a failed download raises depends on the HTTP library under the hub's client.
        reason = " ".join(str(error).split())[:160].strip(" .")
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded ({reason}): "
            "give --weights FILE, or set HF_HOME to a cache folder that has them, or start from "
            "random weights with --weights none"
        ) from error
    return pretrained.state_dict()


def _read(file: Path) -> dict[str, Tensor]:
    check_weights(str(file))
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InputError(f"{file} is damaged or holds more than tensors, and is not loaded") from None
    except Exception as error:
        # A file that is no archive at all fails in the unpickler, in ways of its own.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{file} is not a readable file of weights: {reason}") from error
    plain = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not plain:
        raise InputError(f"{file} is not a plain dictionary of tensors by name")
    return state


def _match(encoder: nn.Module, state: dict[str, Tensor], source: str) -> None:
    for name in [name for name in state if name.startswith("fc.")]:
        del state[name]
    own = encoder.state_dict()
    # torchvision's oldest files lack BatchNorm's step counters, which nothing here reads.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    stray = [name for name in state if name not in own]
    if missing or stray:
        groups = {"missing": missing, "unknown": stray}
        told = [
            f"{len(names)} tensors are {what} ({', '.join(names[:3])}...)" for what, names in groups.items() if names
        ]
        raise InputError(f"{source} does not fit the encoder: {', '.join(told)}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"{source} does not fit the encoder: {name} has shape {tuple(value.shape)}, "
                f"the encoder's {tuple(own[name].shape)}"
            )
        if value.is_floating_point() != own[name].is_floating_point() or not value.isfinite().all():
            raise InputError(f"{source} does not fit the encoder: {name} is of another type, or holds NaN or infinity")
    for name in own:
        state.setdefault(name, own[name])
