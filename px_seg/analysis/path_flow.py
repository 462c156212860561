"""Where R flows while it passes a network: how much through each layer, and through branch and shortcut of each sum."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.pruning.batches import Batches
from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.bound import Streams, path_bound
from px_seg.pruning.paths.streams import Activations, Kernel
from px_seg.pruning.paths.total import NoPathLeft
from px_seg.pruning.scope import prunable


class Split(NamedTuple):
    """How R reaches a residual sum: shares of all of R, in [0, 1]."""

    branch: float
    """Through the operand with more layers."""
    shortcut: float
    """Through the other."""


class Flow(NamedTuple):
    """Shares of the bound R (docs/method.md, section 1), in [0, 1]."""

    layers: dict[str, float]
    """Through each convolution or linear layer, by the name of its weight: the sum of PX's scores in it, over R."""

    sums: dict[str, Split]
    """Into each sum of two tensors, by the name of the module that adds them; its further ones as NAME#2 and so on."""


class _Operand(NamedTuple):
    """One side of a sum, on its way to its share."""

    depth: int
    """Most layers between the input and it."""
    flow: list[float]
    """Its part of R, in R's unit; empty where it does not reach an output."""
    watched: bool
    """Whether its part can be seen: not that of the input itself, which no weight has passed."""


def flow(model: nn.Module, batches: Batches, masks: Mapping[str, Tensor] | None = None) -> Flow:
    """See `Flow`; nothing flows where no path is left.

    `batches`: images (N, C, H, W), or pairs that begin with them. Raises what `px_seg.pruning.paths.bound.path_bound`
    raises. The model comes back as it was.
    """
    sums: dict[str, tuple[_Operand, _Operand, _Operand]] = {}
    with _running(model) as innermost:

        class Recorded(Kernel):
            """The path kernel, with the depth of every tensor, and a record of what is added."""

            depth: int

            @classmethod
            def interpreted(cls, func, args, kwargs):
                depth = max((getattr(part, "depth", 0) for part in leaves(list(args))), default=0)
                result = super().interpreted(func, args, kwargs)
                for part in leaves(result):
                    if isinstance(part, Recorded):
                        part.depth = max(depth, getattr(part, "depth", 0))
                return result

            def weighted(self, func, weight, bias, args, kwargs):
                out = super().weighted(func, weight, bias, args, kwargs)
                # The fixed filter of a blur is no layer.
                out.depth = getattr(self, "depth", 0) + (self.weights.filter(weight, func) is None)
                return out

            def added(self, other, run):
                if not isinstance(other, Recorded):
                    return super().added(other, run)
                pairs = [_watched(part) for part in (self, other)]
                name = innermost()
                place = next(key for key in _numbered(name) if key not in sums)
                out, together = _watched(Kernel.added(pairs[0][0], pairs[1][0], run))
                sums[place] = pairs[0][1], pairs[1][1], together
                return out

        def _watched(part: Kernel) -> tuple[Kernel, _Operand]:
            # A tensor of its own: the same values may pass elsewhere as well.
            values = part.stream.values.view_as(part.stream.values)
            operand = _Operand(getattr(part, "depth", 0), [], values.requires_grad)
            if values.requires_grad:
                kept = values.detach()
                values.register_hook(lambda g: operand.flow.append(float((g.detach() * kept).sum())))
            return part.of(part.stream.changed(values), part.weights), operand

        try:
            found = path_bound(model, batches, masks, streams=Streams(Activations, Recorded))
        except NoPathLeft:
            return Flow(dict.fromkeys(prunable(model), 0.0), {name: Split(0.0, 0.0) for name in sums})
    whole = float(found.total)
    layers = {
        name: float((found.gradients[name] * power).sum(dtype=torch.float64)) / whole
        for name, power in found.powers.items()
    }
    return Flow(layers, {name: _split(*operands, whole) for name, operands in sums.items()})


def _split(first: _Operand, second: _Operand, together: _Operand, whole: float) -> Split:
    branch, shortcut = (first, second) if first.depth >= second.depth else (second, first)
    flow = sum(branch.flow)
    rest = sum(shortcut.flow) if shortcut.watched else max(0.0, sum(together.flow) - flow)
    return Split(flow / whole, rest / whole)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}#{number}"
        number += 1


@contextmanager
def _running(model: nn.Module) -> Iterator[Callable[[], str]]:
    """A function that says, while the model runs, which of its modules does, the innermost one."""
    stack: list[str] = []
    handles = []

    def leave(*_: object) -> None:
        stack.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield lambda: stack[-1] if stack else ""
    finally:
        for handle in handles:
            handle.remove()
