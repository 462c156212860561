"""Which weights pruning is about."""

from collections.abc import Iterable
from typing import TypeAlias

from torch import nn

from px_seg.errors import InputError

Scope: TypeAlias = str | Iterable[str] | None
"""A module-name prefix ("encoder"), several of them, or None for the whole model."""

_WEIGHTED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


def prunable(model: nn.Module, scope: Scope = None) -> dict[str, nn.Parameter]:
    """The weights of every convolution and linear layer in `scope`, by parameter name.

    The order is that of `model.named_modules()`; a weight shared by several modules appears
    once, under the name that `model.named_parameters()` gives it. Raises InputError when a prefix
    matches no such layer, and naming a layer whose weight is computed from other parameters.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    prefixes = [""] if scope is None else [scope] if isinstance(scope, str) else list(scope)
    found: dict[str, nn.Parameter] = {}
    matched: set[str] = set()
    for name, module in model.named_modules():
        inside = [p for p in prefixes if p == "" or name == p or name.startswith(f"{p}.")]
        if inside and isinstance(module, _WEIGHTED):
            matched.update(inside)
            # Not read as an attribute: that would carry a parametrization out.
            weight = module._parameters.get("weight")
            if weight is None:
                raise InputError(
                    f"the weight of {name or 'the model'} ({type(module).__name__}) is computed from other parameters, "
                    "as by weight_norm: make it a parameter first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
            found[names[id(weight)]] = weight
    if not prefixes:
        raise InputError("the scope is empty: name parts of the model, or leave it None for all")
    for prefix in prefixes:
        if prefix not in matched:
            children = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"no convolution or linear layer under {prefix or 'the model'!r}; the model's parts are: {children}"
            )
    return found
