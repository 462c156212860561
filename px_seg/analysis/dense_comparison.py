"""How well a pruned network still is the dense one, before any training."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from px_seg.analysis.cka import LinearCKA
from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, images_of
from px_seg.pruning.masked_network import masked
from px_seg.pruning.modes import evaluating
from px_seg.pruning.outputs import leaves


class Preservation(NamedTuple):
    """What masks leave of a network's function, on given images."""

    cka: dict[str, float]
    """Linear CKA of the features of every stage with the dense network's, from the input on: 1 is the same."""

    agreement: float
    """Share of equal predictions: of the largest channel, of every pixel where there are pixels."""

    error: float
    """|f_pruned - f_dense| / |f_dense| over all outputs: 0 is the dense network, 1 what outputs of 0 have."""

    images: int


def preservation(
    model: nn.Module, masks: Mapping[str, Tensor], batches: Batches, stages: Sequence[str] | None = None
) -> Preservation:
    """Compare the network under `masks` with the dense one; in eval mode, without labels, in at least float32.

    `batches`: images (N, C, H, W), or pairs that begin with them; best those that pruning has not seen. `stages` are
    names of modules whose outputs are compared, by default the module `encoder`, or every direct child with
    weights. A module that returns several tensors has a stage for each, named by its place; the input itself, and empty
    tensors, are none. The model comes back as it was.

    Raises InputError for no batches, masks that do not fit, and names of no module.
    """
    modules = {name: _module(model, name) for name in (_default(model) if stages is None else stages)}
    found: dict[str, LinearCKA] = {}
    equal = predictions = images_seen = 0
    squares = {"difference": 0.0, "dense": 0.0}
    with (
        masked(model, None, None, evaluating) as dense,
        masked(model, masks, None, evaluating) as pruned,
        torch.no_grad(),
        _recorded(modules) as record,
    ):
        for images in images_of(batches, dense.like):
            outputs, features = zip(*(record(network, images) for network in (dense, pruned)), strict=True)
            for name, one in features[0].items():
                found.setdefault(name, LinearCKA()).add(one, features[1][name])
            for one, other in zip(*outputs, strict=True):
                same = _predictions(one) == _predictions(other)
                equal, predictions = equal + int(same.count_nonzero()), predictions + same.numel()
                squares["difference"] += float((other - one).square().sum())
                squares["dense"] += float(one.square().sum())
            images_seen += len(images)
    if not images_seen:
        raise InputError("a comparison needs images: give it at least one batch")
    error = math.sqrt(squares["difference"] / squares["dense"]) if squares["dense"] else math.inf
    return Preservation(
        {name: alignment.value() for name, alignment in found.items()}, equal / predictions, error, images_seen
    )


def _default(model: nn.Module) -> list[str]:
    children = dict(model.named_children())
    if "encoder" in children:
        return ["encoder"]
    return [name for name, child in children.items() if any(weight.dim() > 1 for weight in child.parameters())]


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        children = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"there is no stage {name!r}: name modules of the model, whose parts are {children}") from None


@contextmanager
def _recorded(modules: Mapping[str, nn.Module]) -> Iterator[Callable[..., Any]]:
    """A function that runs a network on images and returns its outputs, and the features of every stage."""
    features: dict[str, Tensor] = {}
    images_now: list[Tensor] = []

    def note(name: str, output: Any) -> None:
        several = list(leaves(output))
        for place, part in enumerate(several):
            own = isinstance(part, Tensor) and part.dim() > 1 and part.numel() and part.is_floating_point()
            if own and not (part.shape == images_now[0].shape and torch.equal(part, images_now[0])):
                # A copy, because a layer that works in place may come next.
                features[name if len(several) == 1 else f"{name}.{place}"] = part.clone()

    def record(network: Callable[[Tensor], Any], images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        features.clear()
        images_now[:] = [images]
        outputs = list(leaves(network(images)))
        return outputs, dict(features)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


def _predictions(output: Tensor) -> Tensor:
    """The largest channel; where there is only one, whether it is positive."""
    return output.argmax(1) if output.dim() > 1 and output.shape[1] > 1 else output > 0
