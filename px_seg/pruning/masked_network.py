"""A network under its masks, as a function of the weights in scope."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from px_seg.errors import InputError
from px_seg.pruning.masks import check_fit
from px_seg.pruning.modes import undisturbed
from px_seg.pruning.scope import Scope, as_list, prunable
from px_seg.wide import wide_dtype


class MaskedNetwork:
    """The model with theta * mask for weights, differentiable by those in `scope`; the model itself is not touched.

    Computed in at least float32. BatchNorms that normalise by the batch move copies of their running
    statistics, `buffers`. Raises InputError naming the first mask that does not fit.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor] | None = None, scope: Scope = None) -> None:
        masks = masks or {}
        parameters = dict(model.named_parameters())
        check_fit(masks, parameters)
        self.model = model
        self.fixed = {n: _masked(p, masks.get(n)) for n, p in parameters.items()}
        self.buffers = {name: _own(buffer) for name, buffer in model.named_buffers()}
        self.live = {name: masks.get(name) for name in prunable(model, scope)}
        self.weights = {name: self.fixed.pop(name).requires_grad_() for name in self.live}
        """theta * mask of the weights in scope, by parameter name."""

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and device of the weights."""
        return next(iter(self.weights.values()))

    def zeros(self) -> dict[str, Tensor]:
        """A tensor of zeros for every weight in scope, to sum over batches in.

        Wide, so that the sum does not depend on the order.
        """
        dtype = wide_dtype(self.like.device)
        return {
            name: torch.zeros_like(weight, dtype=dtype, requires_grad=False) for name, weight in self.weights.items()
        }

    def __call__(self, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Any:
        """The model's output, with `weights` for those in scope, by default `self.weights`."""
        weights = self.weights if weights is None else weights
        try:
            return functional_call(self.model, {**self.fixed, **self.buffers, **weights}, (images,))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                "BatchNorm normalises by the batch's own statistics here, which one sample does not have: "
                "use batches of at least 2 (--pruning.batch_size)"
            ) from None

    @property
    def kept(self) -> int:
        """How many of the weights in scope live."""
        return sum(
            self.weights[name].numel() if mask is None else int(mask.count_nonzero())
            for name, mask in self.live.items()
        )

    def gradients(self, loss: Tensor, create_graph: bool = False, retain_graph: bool = False) -> dict[str, Tensor]:
        """dloss/dtheta of the weights in scope, 0 where it does not depend on them.

        `create_graph` makes them differentiable themselves; `retain_graph` keeps the loss so.

        Raises InputError for a loss that depends on none of them, or is no scalar.
        """
        return gradients(loss, self.weights, create_graph, retain_graph)


def gradients(
    value: Tensor, inputs: Mapping[str, Tensor], create_graph: bool = False, retain_graph: bool = False
) -> dict[str, Tensor]:
    """The derivatives of a scalar by several tensors, 0 where it does not depend on them.

    Raises InputError for a value that depends on none of them, or is no scalar.
    """
    if not isinstance(value, Tensor) or value.dim() != 0:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"a loss must be a single number, a 0-dimensional tensor; this one is {what}")
    if not value.requires_grad:
        raise InputError("no output of the model depends on a weight in scope")
    found = torch.autograd.grad(
        value,
        list(inputs.values()),
        create_graph=create_graph,
        retain_graph=create_graph or retain_graph,
        materialize_grads=True,
    )
    if not create_graph:
        found = tuple(part.detach() for part in found)
    return dict(zip(inputs, found, strict=True))


@contextmanager
def masked(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None,
    scope: Scope,
    mode: Callable[[nn.Module], AbstractContextManager[None]],
) -> Iterator[MaskedNetwork]:
    """The network under its masks, for use in the context: there it is in `mode`, and gradients are on.

    `mode` is one of `px_seg.pruning.modes`, `evaluating` or `batch_statistics`.
    """
    scope = as_list(scope)
    like = next(iter(prunable(model, scope).values()))
    with undisturbed(like.device), torch.enable_grad(), mode(model):
        yield MaskedNetwork(model, masks, scope)


def _masked(parameter: nn.Parameter, mask: Tensor | None) -> Tensor:
    weight = _own(parameter.detach())
    return weight if mask is None else weight.mul_(mask.to(weight))


def _own(tensor: Tensor) -> Tensor:
    """A copy, in at least float32 where it is a float: half precision loses gradients and their squares."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
