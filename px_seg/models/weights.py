"""Where a backbone's weights come from: names of published ones, files, and runs of px_seg."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlsplit

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from px_seg.errors import InputError, one_line
from px_seg.files import user_path
from px_seg.identity import digest
from px_seg.models import efficientnet
from px_seg.models.encoders import check_timms_tag, timms_tags
from px_seg.models.formats import CLIP_ENCODER, counted, mapped, some
from px_seg.models.packaged import packaged_file
from px_seg.models.torchscript import is_torchscript, read_torchscript
from px_seg.pruning import prunable
from px_seg.pruning.compaction.narrow import COMPACT

PUBLISHED: dict[str, str] = {
    "mocov2": "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
    "dino": "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
    "clip": "https://openaipublic.azureedge.net/clip/models/"
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
}
"""Addresses of ResNet-50 weights as their authors published them: MoCo v2 after 800 epochs, DINO, and CLIP."""

NAMES = (
    "none, imagenet, mocov2, dino, clip, torchvision:VERSION, timm:TAG, package:NAME, a file, or the folder of an "
    "earlier run"
)


@dataclass(frozen=True)
class Loaded:
    """What was loaded into an encoder.

    `source` says where from, and which version; `format` whose names the tensors had; `matched` is the number of
    tensors loaded, and `left_out` the names of others in the file, by the reason why. `zeros` is the share of the
    loaded convolution and linear weights that are 0: those of a pruned network are. `digest` is that of the tensors
    loaded (`px_seg.identity`): a file may be replaced under its name.
    """

    source: str
    format: str
    matched: int
    left_out: dict[str, list[str]]
    zeros: float
    digest: str

    def __str__(self) -> str:
        parts = [f"{len(names)} of {reason}" for reason, names in self.left_out.items()]
        left = f"; left out: {', '.join(parts)}" if parts else ""
        pruned = f"; {self.zeros:.1%} of the weights are 0, as in a pruned network" if self.zeros > 0.001 else ""
        return f"{self.matched} tensors from {self.source} ({self.format}){left}{pruned}"

    def summary(self) -> dict[str, object]:
        """The same for results.json, with numbers of names."""
        left_out = {reason: len(names) for reason, names in self.left_out.items()}
        return {
            **{"source": self.source, "format": self.format, "matched": self.matched},
            **{"left_out": left_out, "zeros": self.zeros, "digest": self.digest},
        }


def check_weights(weights: str | None, encoder: str) -> None:
    """Raise InputError unless `weights` is a known name that fits the encoder, a file that exists, or None."""
    if weights is None:
        return
    kind, _, version = weights.partition(":")
    if kind == "package":
        packaged_file(version)
    elif is_file(weights):
        file_of(weights)
    else:
        if weights in PUBLISHED:
            fitting = (CLIP_ENCODER,) if weights == "clip" else ("resnet50", "tu-resnet50")
            if encoder.partition(".")[0] not in fitting:
                raise InputError(
                    f"the published weights {weights} are for another network: give --encoder {fitting[0]}"
                )
        if kind == "torchvision":
            _torchvision_entry(encoder, version)
        if kind == "timm" or (weights == "imagenet" and encoder.startswith("tu-")):
            tag = timm_name(encoder, version).partition(".")[2]
            if weights == "imagenet" and not re.search(r"in(1|12|21|22)k", tag):
                raise InputError(f"timm's weights for {encoder} are {tag!r}, not ImageNet's: give --weights timm:{tag}")


def load_encoder(encoder: nn.Module, name: str, weights: str | None) -> Loaded | None:
    """Fill `encoder`, one of segmentation-models-pytorch or px_seg called `name`, in place.

    `weights` is one of

    - `none`, or None, which leaves it as it is,
    - `imagenet`, the segmentation library's own download, or timm's for a `tu-` encoder,
    - `mocov2`, `dino`, `clip`: the authors' files, downloaded to the cache of torch.hub,
    - `torchvision:VERSION`, such as `torchvision:IMAGENET1K_V2`, and `timm:TAG`, such as `timm:a1_in1k`,
    - `package:NAME`: the one file of weights that an installed Python package ships,
    - a file: safetensors, a torch file of tensors, or a TorchScript archive, with the names of any of these,
    - the folder of an earlier run, or its `model`.

    Where the encoder's images do not have three channels, its first layer gets the weights of the three in turns, times
    3 / channels, and of one their sum, as segmentation-models-pytorch does it.

    Classifiers, projection heads and the like are left out and reported; anything else in it must match
    the encoder, name for name and shape for shape, and fill it. Nothing in a file is run.

    Raises InputError when weights are missing, unreadable or do not match, and when the
    download fails, naming the ways out. Never falls back on something else.
    """
    check_weights(weights, name)
    if weights is None or weights == "none":
        return None
    state, source = read_weights(name, weights)
    found = mapped(state, source)
    tensors = found.tensors
    # The segmentation library's own has the names of the family.
    if efficientnet.is_of_family(tensors) and not name.startswith("efficientnet-"):
        tensors = efficientnet.named_as_timm(tensors, name, source)
    tensors = _named_like(encoder, tensors)
    if name.startswith("tu-"):
        found.left_out.update(_without_timms_head(encoder, name, tensors))
    tensors = _for_channels(encoder, tensors)
    _match(encoder, tensors, name, source, found.title)
    matched = len(tensors)
    # torchvision's oldest files lack BatchNorm's step counters, which nothing here reads.
    encoder.load_state_dict({**encoder.state_dict(), **tensors})
    convolutions = prunable(encoder).values()
    zeros = sum(int((weight == 0).sum()) for weight in convolutions) / sum(weight.numel() for weight in convolutions)
    return Loaded(
        source, found.title, matched, found.left_out, zeros, digest(tensors[name] for name in sorted(tensors))
    )


def _for_channels(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with that of the first convolution for as many channels as the encoder's has."""
    first = next((name for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d)), None)
    name = f"{first}.weight"
    if first is None or name not in tensors or tensors[name].dim() != 4 or tensors[name].shape[1] != 3:
        return dict(tensors)
    weight, channels = tensors[name], encoder.get_parameter(name).shape[1]
    if channels == 3:
        return dict(tensors)
    turns = [place % 3 for place in range(channels)]
    adapted = weight.sum(1, keepdim=True) if channels == 1 else weight[:, turns] * (3 / channels)
    return {**tensors, name: adapted}


def read_weights(name: str, weights: str) -> tuple[Mapping[str, Tensor], str]:
    """All tensors of such weights for the encoder `name`, as they are stored, and where they come from.

    Raises InputError when they are missing or unreadable, and when the download fails.
    """
    kind, _, version = weights.partition(":")
    if weights == "imagenet" and not name.startswith("tu-"):
        return _imagenet(name)
    if weights in PUBLISHED:
        file = _published(weights)
        return _read(file), f"{weights}, {PUBLISHED[weights]}"
    if kind == "torchvision":
        entry = _torchvision_entry(name, version)
        return _fetched(
            lambda: entry.get_state_dict(progress=False, check_hash=True), weights
        ), f"{weights}, {entry.url}"
    if weights == "imagenet" or kind == "timm":
        full = timm_name(name, version)
        if name.startswith("tu-"):
            # Exactly the encoder's layers, which need not be all of the classifier's.
            model = _fetched(lambda: smp.encoders.get_encoder(f"tu-{full}", weights=True), weights)
        else:
            model = _fetched(lambda: timm.create_model(full, pretrained=True), weights)
        return model.state_dict(), f"timm's {full}"
    if kind == "package":
        file, called = packaged_file(version)
        return _read(file), called
    file = file_of(weights)
    return _read(file), str(file)


def _imagenet(name: str) -> tuple[Mapping[str, Tensor], str]:
    settings = smp.encoders.encoders.get(name, {}).get("pretrained_settings", {})
    if "imagenet" not in settings:
        raise InputError(f"{name} has no ImageNet weights: give --weights FILE or --weights none")
    origin = settings["imagenet"]
    encoder = _fetched(lambda: smp.encoders.get_encoder(name, weights="imagenet"), "imagenet")
    version = f"{origin['repo_id']} at {origin['revision'][:8]}" if "repo_id" in origin else origin.get("url", "")
    return encoder.state_dict(), f"segmentation-models-pytorch's imagenet, {version}"


def _fetched(download: Callable, weights: str):
    try:
        return download()
    except Exception as error:
        # What a failed download raises depends on the HTTP library under the hub's client.
        reason = one_line(error, 240).strip(" .")
        raise InputError(
            f"the weights {weights} could not be downloaded ({reason}): give --weights FILE, or set HF_HOME and "
            "TORCH_HOME to cache folders that have them, or start from random weights with --weights none"
        ) from error


def _published(weights: str) -> Path:
    """The authors' file in the cache, fetched if it is not there; CLIP's address carries its hash."""
    url = PUBLISHED[weights]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        checksum = url.split("/")[-2] if weights == "clip" else None
        _fetched(lambda: torch.hub.download_url_to_file(url, str(file), checksum, progress=False), f"{weights}, {url},")
    return file


def _torchvision_entry(encoder: str, version: str) -> torchvision.models.WeightsEnum:
    try:
        known = torchvision.models.get_model_weights(encoder)
    except ValueError:
        raise InputError(f"torchvision has no weights for {encoder}: give --weights FILE or --weights none") from None
    if version not in known.__members__:
        raise InputError(
            f"torchvision has no weights {version!r} for {encoder}: choose one of {', '.join(known.__members__)}"
        )
    return known[version]


def timm_name(encoder: str, tag: str) -> str:
    """timm's full name, architecture.tag; the tag is timm's default unless `tag` or the encoder says one."""
    architecture, _, own = encoder.removeprefix("tu-").partition(".")
    if not timms_tags(architecture):
        raise InputError(f"timm has no weights for {architecture}: give --weights FILE or --weights none")
    if tag or own:
        check_timms_tag(architecture, tag or own)
        return f"{architecture}.{tag or own}"
    default = timm.models.get_pretrained_cfg(architecture)
    assert default is not None
    return f"{architecture}.{default.tag}"


def is_file(weights: str) -> bool:
    """Whether these are a file's, or a folder's, and not known by a name."""
    return weights not in ("none", "imagenet", *PUBLISHED) and not re.match("(torchvision|timm|package):", weights)


def file_of(weights: str) -> Path:
    """The file itself, or that of the model in a run's folder. InputError where there is none."""
    path = user_path(weights, "--weights")
    if path.is_dir():
        for file in (path / "model.safetensors", path / "model" / "model.safetensors"):
            if file.is_file():
                return file
        if any((path / place / COMPACT).is_file() for place in (".", "model")):
            raise InputError(
                f"--weights {weights} holds a compacted network, which fits no other: give a run without --compact"
            )
        raise InputError(f"--weights {weights} is a folder without a model: give that of a finished run, or a file")
    if not path.is_file():
        raise InputError(f"--weights takes {NAMES}; there is no file {weights}")
    return path


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        if _is_safetensors(file):
            return load_file(file)
        if is_torchscript(file):
            return read_torchscript(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except UnpicklingError:
        raise InputError(
            f"{file} is damaged or holds more than tensors, as a pickled model does, so it is not loaded: save its "
            "state_dict() instead"
        ) from None
    except Exception as error:
        # A file that is not an archive at all fails in the unpickler, in ways of its own.
        raise InputError(f"{file} is not a readable weights file: {one_line(error, 160)}") from error
    for key in ("state_dict", "model"):
        # A training checkpoint also holds the epoch, the optimizer and the like.
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(map(_is_plain, state, state.values())):
        raise InputError(f"{file} is not a dictionary of tensors by name, and holds none as state_dict or model")
    return state


def _is_safetensors(file: Path) -> bool:
    """Whether it begins as the format does, whatever its name: the header's length, and a brace."""
    with file.open("rb") as stream:
        start = stream.read(9)
    return file.suffix == ".safetensors" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**27)


def _is_plain(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _named_like(encoder: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the encoder's own names, where those differ from its library's.

    segmentation-models-pytorch keeps a timm network as `model`, in which timm writes the dots after a stage as
    underscores.
    """
    own = encoder.state_dict()
    names = {_undotted(name.removeprefix("model.")): name for name in own if name.startswith("model.")}
    if len(names) < len(own):
        return tensors
    return {name if name in own else names.get(_undotted(name), name): value for name, value in tensors.items()}


def _without_timms_head(encoder: nn.Module, name: str, tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Take out, in place, what timm's whole network has behind the features, such as a last 1x1 convolution."""
    own = encoder.state_dict()
    stray = [key for key in tensors if key not in own]
    if not stray:
        return {}
    with torch.random.fork_rng(devices=[]):
        whole = timm.create_model(name.removeprefix("tu-").partition(".")[0]).state_dict()
    behind = [key for key in stray if key in whole]
    for key in behind:
        del tensors[key]
    return {"the layers behind the features": behind} if behind else {}


def _undotted(name: str) -> str:
    return name.replace(".", "_")


def _match(encoder: nn.Module, state: Mapping[str, Tensor], name: str, source: str, title: str) -> None:
    own = encoder.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    stray = [name for name in state if name not in own]
    misfit = f"{source} ({title}) does not fit the encoder {name}"
    if title == "CLIP" and missing and name != CLIP_ENCODER:
        raise InputError(f"{misfit}: CLIP's ResNet-50 has its own architecture: give --encoder {CLIP_ENCODER}")
    if missing or stray:
        groups = {"missing": missing, "unknown": stray}
        misfits = [f"{counted(names)} {what} ({some(names)})" for what, names in groups.items() if names]
        raise InputError(f"{misfit}: {', '.join(misfits)}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise InputError(
                f"{misfit}: {key} has shape {tuple(value.shape)}, but the encoder's has {tuple(own[key].shape)}"
            )
        if value.is_floating_point() != own[key].is_floating_point() or not value.to(own[key].dtype).isfinite().all():
            raise InputError(f"{misfit}: {key} has another type, or holds NaN or infinity")
        if key.endswith("running_var") and (value < 0).any():
            raise InputError(f"{misfit}: {key} holds negative variances")
