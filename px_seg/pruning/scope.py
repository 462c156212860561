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
    once, under its first name. Raises InputError when a prefix matches no such layer.
    """
    prefixes = [""] if scope is None else [scope] if isinstance(scope, str) else list(scope)
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    matched: set[str] = set()
    for name, module in model.named_modules():
        inside = [p for p in prefixes if p == "" or name == p or name.startswith(f"{p}.")]
        if inside and isinstance(module, _WEIGHTED):
            matched.update(inside)
            if id(module.weight) not in seen:
                seen.add(id(module.weight))
                found[f"{name}.weight" if name else "weight"] = module.weight
    for prefix in prefixes:
        if prefix not in matched:
            children = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"no convolution or linear layer under {prefix or 'the model'!r}; the model's parts are: {children}"
            )
    return found
