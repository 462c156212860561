"""Layers of networks that were made smaller, and networks cut to the sizes of their weights."""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

COMPACT = "compact.safetensors"
"""The file of a network that was made smaller; libraries' own functions would read it wrongly under the usual name."""

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""What can be cut in both directions of its weight."""


class Narrow(nn.Module):
    """A convolution or linear layer that reads some channels of its input, and makes some of its output's.

    `reads` are the places of the channels that it reads, all where None. `places` say for every channel of the output
    which of the layer's it is, those from the last on being 0; all in their order where None. `constants` adds what
    channels contribute that are the same everywhere and for every image, and so are not computed at all.
    """

    reads: Tensor | None
    places: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        reads: Tensor | None = None,
        places: Tensor | None = None,
        constants: "Constants | None" = None,
    ) -> None:
        super().__init__()
        self.layer, self.constants = layer, constants
        self.register_buffer("reads", reads)
        self.register_buffer("places", places)
        self.train(layer.training)

    @property
    def weight(self) -> nn.Parameter:
        """Of the layer, as code reads it that asks for its dtype."""
        return self.layer.get_parameter("weight")

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x if self.reads is None else _picked(x, self.reads))
        if self.constants is not None:
            y = y + self.constants(x)
        if self.places is None:
            return y
        return _picked(F.pad(y, (*[0, 0] * (y.dim() - 2), 0, 1)), self.places)


def _picked(x: Tensor, channels: Tensor) -> Tensor:
    """These channels of a tensor, in its memory format."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).index_select(1, channels)
        return rows.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)
    return x.index_select(1, channels)


class Constants(nn.Module):
    """What channels that are the same everywhere contribute to a layer's output, at its borders too.

    `layer` is the same layer for one channel of ones. Its weights are those of training, to which eval mode adds
    `difference`: a BatchNorm makes something else of a constant by its running statistics than by a batch's. Running
    statistics come to be those of the constant while a network trains, so a forward pass in training leaves the share
    `decay`, a scalar, of the difference.
    """

    difference: Tensor
    decay: Tensor

    def __init__(self, layer: nn.Module, difference: Tensor, decay: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("difference", difference)
        self.register_buffer("decay", decay)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones((1, 1, *x.shape[2:]), dtype=self.difference.dtype, device=self.difference.device)
        y = self.layer(ones)
        if self.training:
            with torch.no_grad():
                self.difference.mul_(self.decay)
            return y
        return y + torch.func.functional_call(self.layer, {"weight": self.difference}, (ones,))


@torch.no_grad()
def constants_as_biases(model: nn.Module) -> None:
    """Makes a bias of what constants contribute in eval mode where it is the same at every place: in unpadded layers.

    In place; the model is no longer to be trained.
    """
    for module in model.modules():
        if isinstance(module, Narrow) and module.constants is not None and _is_unpadded(module.layer):
            weight = module.constants.layer.get_parameter("weight") + module.constants.difference
            bias = weight.flatten(1).sum(1)
            old = module.layer._parameters["bias"]
            module.layer.register_parameter("bias", nn.Parameter(bias if old is None else bias + old))
            module.constants = None


def _is_unpadded(layer: nn.Module) -> bool:
    # Layers of other libraries pad in their own way.
    return type(layer) is nn.Linear or (type(layer) in LAYERS and set(layer.padding) == {0})  # type: ignore[arg-type]


def cut_layer(module: nn.Module, rows: Tensor, columns: Tensor, groups: int = 1) -> nn.Module:
    """A copy of a convolution or linear layer with some rows (output channels) and columns of its weight."""
    layer, weight, bias = copy.copy(module), module.get_parameter("weight"), module.bias
    layer._parameters = dict(module._parameters)
    _replace(layer, "weight", cut_weight(weight.detach(), rows, columns))
    if isinstance(bias, Tensor):
        _replace(layer, "bias", bias[rows])
    _set_sizes(layer, len(columns) * groups, len(rows), groups)
    return layer


def cut_weight(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Some rows and columns of a layer's weight, or of its mask."""
    return weight.index_select(0, rows.to(weight.device)).index_select(1, columns.to(weight.device))


def ones_layer(module: nn.Module, weight: Tensor) -> nn.Module:
    """The layer without bias for a single input channel, whose weights are `weight`, (out, 1, ...)."""
    layer = copy.copy(module)
    layer._parameters = {**module._parameters, "bias": None}
    _replace(layer, "weight", weight)
    _set_sizes(layer, 1, len(weight), 1)
    return layer


def cut_channels(module: nn.Module, kept: Tensor) -> None:
    """Cuts a BatchNorm, or a PReLU with a slope a channel, to some of its channels, in place."""
    for name in ("weight", "bias"):
        values = getattr(module, name, None)
        if values is not None:
            _replace(module, name, values[kept])
    for name in ("running_mean", "running_var"):
        values = getattr(module, name, None)
        if values is not None:
            setattr(module, name, values[kept].clone())
    setattr(module, "num_features" if isinstance(module, _BatchNorm) else "num_parameters", len(kept))


def with_layer(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with another layer in place of the one of that name, under all of its names; it may be the model."""
    old = model.get_submodule(name)
    for other in [other for other, module in model.named_modules(remove_duplicate=False) if module is old]:
        if not other:
            return layer
        model.set_submodule(other, layer)
    return model


def cut_to(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The model itself, its layers cut to the sizes that they have in `state`, their values still to be loaded.

    Raises KeyError for a layer that has no weights there.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, LAYERS):
            model = with_layer(model, name, _sized(module, name, state))
        elif isinstance(module, _BatchNorm | nn.PReLU):
            first = "running_mean" if f"{name}.running_mean" in state else "weight"
            if f"{name}.{first}" in state:
                cut_channels(module, torch.arange(len(state[f"{name}.{first}"])))
    return model


def _sized(module: nn.Module, name: str, state: Mapping[str, Tensor]) -> nn.Module:
    inside = f"{name}.layer.weight" in state
    weight = state[f"{name}.layer.weight" if inside else f"{name}.weight"]
    rows, columns = (torch.zeros(size, dtype=torch.long) for size in weight.shape[:2])
    groups = getattr(module, "groups", 1)
    if groups > 1:
        groups = groups * len(rows) // int(module.get_parameter("weight").shape[0])
    layer = cut_layer(module, rows, columns, groups)
    if not inside:
        return layer
    difference = state.get(f"{name}.constants.difference")
    constants = None
    if difference is not None:
        decay = torch.zeros_like(state[f"{name}.constants.decay"])
        constants = Constants(ones_layer(module, difference), torch.zeros_like(difference), decay)
    return Narrow(layer, state.get(f"{name}.reads"), state.get(f"{name}.places"), constants)


def _replace(module: nn.Module, name: str, values: Tensor) -> None:
    """Another value for a parameter, which keeps its place in memory order and whether it trains."""
    old = module.get_parameter(name)
    last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous()
    order = torch.channels_last if last else torch.contiguous_format
    values = values.detach().to(old.dtype).clone(memory_format=order)
    setattr(module, name, nn.Parameter(values, requires_grad=old.requires_grad))


def _set_sizes(layer: nn.Module, inputs: int, outputs: int, groups: int) -> None:
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    else:
        layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups  # type: ignore[assignment]
