"""Weights as they are published, in small."""

import warnings
from pathlib import Path

import timm
import torch
from torch import Tensor, nn


def noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same convolutions, and vectors that no two are equal, so that a norm in another's place shows."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator).to(value) + 0.5 if value.dim() == 1 else value
        for name, value in state.items()
    }


class Scripted(nn.Module):
    """Something with the parameters of the given names, for TorchScript."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def archive(state: dict[str, Tensor], path: Path) -> None:
    """A TorchScript archive whose modules nest as the names' dots say."""
    root = Scripted()
    for name, value in state.items():
        *folders, last = name.split(".")
        module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, Scripted())
            module = module.get_submodule(folder)
        if value.is_floating_point() and "running" not in last:
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(last, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))


def clip_state(half: bool = True) -> dict[str, Tensor]:
    """Tensors by OpenAI's names: timm's network, its names taken back."""
    names: dict[str, Tensor] = {}
    for name, value in timm.create_model("resnet50_clip").state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            new = f"{parts[2] if parts[2] == 'bn' else 'conv'}{parts[1][-1]}.{parts[-1]}"
        elif parts[0] == "stages":
            stage = f"layer{int(parts[1]) + 1}.{parts[2]}"
            if parts[3] == "shortcut":
                new = f"{stage}.downsample.{0 if parts[-2] == 'conv' else 1}.{parts[-1]}"
            else:
                new = f"{stage}.{parts[-2]}{parts[3][4]}.{parts[-1]}"
        else:
            new = f"attnpool.{name.removeprefix('head.')}"
        names[f"visual.{new}"] = value
    state = noise(names)
    state = {name: value.half() if half and value.is_floating_point() else value for name, value in state.items()}
    text = ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "logit_scale")
    return {**state, **{name: torch.zeros(3) for name in text}, "context_length": torch.tensor(77)}


class Malicious:
    def __reduce__(self):
        return print, ("this must never be printed",)


def assert_filled(encoder: nn.Module, state: dict[str, Tensor]) -> None:
    own = encoder.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
