"""Which weights are pruned. A run says so by its task's `scope`, the backbone, less `keep_dense`."""

from collections.abc import Iterable
from typing import TypeAlias

from torch import nn

from px_seg.errors import InputError

Scope: TypeAlias = str | Iterable[str] | None
"""A module-name prefix ("encoder"), several of them, or None for the whole model.

A prefix that begins with a minus takes what is under it out again: ["encoder", "-encoder.conv1"].
"""

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
    matches no such layer, when nothing is left, and naming a layer whose weight is computed from other parameters.
    """
    scope = as_list(scope)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, nn.Parameter] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _WEIGHTED)}
    _check(model, layers, scope)
    for name, module in layers.items():
        if inside(name, scope):
            # Not read as an attribute: that would carry a parametrization out.
            weight = module._parameters.get("weight")
            if weight is None:
                raise InputError(
                    f"the weight of {name or 'the model'} ({type(module).__name__}) is computed from other parameters, "
                    "as by weight_norm: make it a parameter first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
            found[names[id(weight)]] = weight
    if not found:
        raise InputError("the scope excludes everything that it includes: name less after a minus")
    return found


def as_list(scope: Scope) -> str | list[str] | None:
    """The scope in a form that can be read more than once."""
    return scope if scope is None or isinstance(scope, str) else list(scope)


def inside(module: str, scope: Scope) -> bool:
    """Whether the module of that name is in `scope`."""
    taken, given = _prefixes(scope)
    return any(_under(module, p) for p in given) and not any(_under(module, p) for p in taken)


def _prefixes(scope: Scope) -> tuple[list[str], list[str]]:
    """The prefixes that are taken out, and those that are in."""
    prefixes = [""] if scope is None else [scope] if isinstance(scope, str) else list(scope)
    taken = [prefix.removeprefix("-") for prefix in prefixes if prefix.startswith("-")]
    given = [prefix for prefix in prefixes if not prefix.startswith("-")]
    return taken, given or ([""] if taken else [])


def _under(module: str, prefix: str) -> bool:
    return prefix == "" or module == prefix or module.startswith(f"{prefix}.")


def _check(model: nn.Module, layers: Iterable[str], scope: Scope) -> None:
    taken, given = _prefixes(scope)
    if not given:
        raise InputError("the scope is empty: name parts of the model, or leave it None for all")
    for prefix in (*given, *taken):
        if not any(_under(name, prefix) for name in layers):
            children = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"no convolution or linear layer under {prefix or 'the model'!r}; the model's parts are: {children}"
            )
