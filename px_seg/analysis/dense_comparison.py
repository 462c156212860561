"""How well a pruned network still is the dense one, before any training."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from px_seg.analysis.cka import LinearCKA
from px_seg.errors import InputError
from px_seg.pruning.batches import NO_IMAGES, Batches, images_of
from px_seg.pruning.masked_network import masked
from px_seg.pruning.modes import evaluating
from px_seg.pruning.outputs import leaves

OUTPUT = "output"
"""The stage of a model without parts."""


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
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Batches,
    stages: Sequence[str] | None = None,
    repaired: nn.Module | None = None,
) -> Preservation:
    """Compare the network under `masks` with the dense one; in eval mode, without labels, in at least float32.

    `batches`: images (N, C, H, W), or pairs that begin with them; best those that pruning has not seen. `stages` are
    names of modules whose outputs are compared, the last ones where a module is used several times; by default the
    module `encoder`, or every direct child with weights, or the model itself where it has none. A module that
    returns several tensors has a stage for each, named by its place; the input itself, and empty tensors, are none.
    The model comes back as it was. With `repaired`, a model built alike, that one is compared, under the same masks, in
    place of the pruned dense one (`px_seg.recalibrate`).

    Raises InputError for no batches, fewer than four samples of a stage, masks that do not fit, names of no module or
    of one that is not used, and outputs that are no real numbers, or are NaN or infinite.
    """
    if not isinstance(masks, Mapping):
        raise InputError(f"masks must be px_seg.Masks, or masks by parameter name: got {type(masks).__name__}")
    other = model if repaired is None else repaired
    names = _default(model) if stages is None else _names(stages)
    modules = [{name: _module(network, name) for name in names} for network in (model, other)]
    found: dict[str, LinearCKA] = {}
    equal = predictions = images_seen = 0
    squares = {"difference": 0.0, "dense": 0.0}
    with (
        masked(model, None, None, evaluating) as dense,
        masked(other, masks, None, evaluating) as pruned,
        torch.no_grad(),
        _recorded(modules[0]) as record,
        _recorded(modules[1]) as record_pruned,
    ):
        for images in images_of(batches, dense.like):
            both = record(dense, images), record_pruned(pruned, images)
            outputs, features = zip(*both, strict=True)
            for which, own in zip(("dense", "pruned"), outputs, strict=True):
                _check(own, which)
            for name, one in features[0].items():
                if one.shape != images.shape or not torch.equal(one, images):
                    found.setdefault(name, LinearCKA()).add(one, features[1][name])
            for one, other in zip(*outputs, strict=True):
                same = _predictions(one) == _predictions(other)
                equal, predictions = equal + int(same.count_nonzero()), predictions + same.numel()
                squares["difference"] += float((other - one).square().sum())
                squares["dense"] += float(one.square().sum())
            images_seen += len(images)
    if not images_seen:
        raise InputError(NO_IMAGES)
    if unused := [name for name in names if not any(_belongs(key, name) for key in found)]:
        raise InputError(f"the stage {unused[0]!r} has no features of its own: the network does not use it")
    off, own = squares["difference"], squares["dense"]
    error = math.sqrt(off / own) if own else math.inf if off else 0.0
    return Preservation(
        {name: alignment.value() for name, alignment in found.items()}, equal / predictions, error, images_seen
    )


def _default(model: nn.Module) -> list[str]:
    children = dict(model.named_children())
    if "encoder" in children:
        return ["encoder"]
    weighted = [name for name, child in children.items() if any(weight.dim() > 1 for weight in child.parameters())]
    return weighted or [""]


def _names(stages: Sequence[str]) -> list[str]:
    names = [stages] if isinstance(stages, str) else list(stages)
    if not names:
        raise InputError("stages names no module: leave it out, or name those whose outputs are to be compared")
    return names


def _belongs(key: str, stage: str) -> bool:
    return key == (stage or OUTPUT) or re.fullmatch(rf"{re.escape(stage or OUTPUT)}\.\d+", key) is not None


def _check(outputs: Sequence[Any], which: str) -> None:
    """InputError unless they are real numbers, and finite."""
    if not outputs or not all(isinstance(out, Tensor) and out.is_floating_point() and out.numel() for out in outputs):
        kinds = ", ".join(str(out.dtype) if isinstance(out, Tensor) else type(out).__name__ for out in outputs)
        raise InputError(f"only outputs that are tensors of real numbers can be compared: got {kinds or 'none'}")
    if not all(out.isfinite().all() for out in outputs):
        raise InputError(f"outputs of the {which} network are NaN or infinite: there is nothing to compare")


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

    def note(name: str, output: Any) -> None:
        several = list(leaves(output))
        for place, part in enumerate(several):
            if isinstance(part, Tensor) and part.dim() > 1 and part.numel() and part.is_floating_point():
                # A copy, because a layer that works in place may come next.
                features[name if len(several) == 1 else f"{name}.{place}"] = part.clone()

    def record(network: Callable[[Tensor], Any], images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        features.clear()
        outputs = list(leaves(network(images)))
        return outputs, dict(features)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name or OUTPUT, output))
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
