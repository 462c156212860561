"""The bound R on the trace of the Neural Tangent Kernel, and its derivatives by the weights squared."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, images_of, one_shape
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.modes import evaluating, undisturbed
from px_seg.pruning.paths.operations import UnsupportedOperation
from px_seg.pruning.paths.precision import walk_dtype
from px_seg.pruning.paths.scaled import Scaled, add
from px_seg.pruning.paths.streams import Activations, Kernel
from px_seg.pruning.paths.total import PathTotal, differentiated, scored_weights
from px_seg.pruning.paths.walk import path_activations, path_kernel
from px_seg.pruning.paths.weights import Powers, TrueAndLive
from px_seg.pruning.scope import Scope
from px_seg.wide import wide_dtype


class Streams(NamedTuple):
    """A reading of the network: how each stream passes its parts."""

    activations: type[Activations]
    kernel: type[Kernel]


FOLD = Streams(Activations, Kernel)
"""Each BatchNorm by its running statistics, as part of the weights (docs/method.md, section 2)."""


def path_bound(
    model: nn.Module,
    batches: Batches,
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope = None,
    streams: Streams = FOLD,
    precision: str | None = None,
    group: Group = None,
) -> PathTotal:
    """R over all outputs of the whole model, differentiated by the weights in `scope`.

    The batches are those of this process; g is summed over those of all processes in `group`.
    All samples have one shape. h and the gradients are computed in at least float32, whatever
    the precision of the walk.

    Raises InputError for no batches, samples of different shapes, a non-finite R, and masks that do
    not fit or leave no path, and UnsupportedOperation, naming
    module and operation, where paths are not defined.
    """
    masks = masks or {}
    scored = scored_weights(model, masks, scope)
    like = next(iter(scored.values()))
    dtype = walk_dtype(precision, like.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    with evaluating(model):
        with undisturbed(like.device, precision):
            activations, shape = _summed_activations(model, batches, TrueAndLive(model, masks, dtype), streams, group)
        with undisturbed(like.device):
            weights = Powers(model, masks, wide, scored)
            sample = torch.ones((1, *shape), dtype=wide, device=like.device)
            return _bound(activations, path_kernel(model, sample, weights, streams.kernel), weights)


def kernel_bound(
    model: nn.Module,
    shape: Sequence[int],
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope = None,
    kernel: type[Kernel] = Kernel,
    exponent: int = 2,
) -> PathTotal:
    """R with g set to one, sum_k h_k, differentiated by the weights in `scope`, each to the power `exponent`.

    `shape` is that of one sample, (C, H, W). Raises what `path_bound` raises for its masks and model.
    """
    masks = masks or {}
    scored = scored_weights(model, masks, scope)
    like = next(iter(scored.values()))
    wide = torch.promote_types(like.dtype, torch.float32)
    with evaluating(model), undisturbed(like.device):
        weights = Powers(model, masks, wide, scored, exponent)
        h = path_kernel(model, torch.ones((1, *shape), dtype=wide, device=like.device), weights, kernel)
        g = [Scaled.of(torch.ones_like(part.values)) for part in h]
        return _bound(g, h, weights)


def _bound(activations: list[Scaled], kernel: list[Scaled], weights: Powers) -> PathTotal:
    """R from its two streams, differentiated by the leaves of `weights`."""
    products = []
    for g, h in zip(activations, kernel, strict=True):
        if g.values.shape != h.values.shape:
            raise UnsupportedOperation(
                f"an output of the model has shape {tuple(g.values.shape)} for a sample in a batch and "
                f"{tuple(h.values.shape)} for a single sample"
            )
        products.append(Scaled((g.values * h.values).sum(), g.exponent + h.exponent))
    return differentiated(products, weights).checked()


def _summed_activations(
    model: nn.Module, batches: Batches, weights: TrueAndLive, streams: Streams, group: Group
) -> tuple[list[Scaled], torch.Size]:
    """Path activations summed over all samples of all processes, one per output, and a sample's shape."""
    total: list[Scaled] = []

    def own() -> torch.Size | None:
        nonlocal total
        shape = None
        for images in images_of(batches, torch.empty((), dtype=weights.dtype, device=weights.device)):
            shape = images.shape[1:]
            outputs = path_activations(model, images, weights, streams.activations)
            if total and len(total) != len(outputs):
                raise InputError(f"the model returns {len(total)} outputs for one batch and {len(outputs)} for another")
            # So that the sum does not depend on the order of the batches.
            outputs = [out.changed(out.values.to(wide_dtype(weights.device))) for out in outputs]
            total = [add(a, b) for a, b in zip(total, outputs, strict=True)] if total else outputs
        return shape

    shape = one_shape(all_gather(group, run_on_all_ranks(group, own)))
    if not total:
        # This process has no batch: it walks one that counts for nothing, to learn the outputs' shapes.
        nothing = torch.zeros((1, *shape), dtype=weights.dtype, device=weights.device)
        outputs = path_activations(model, nothing, weights, streams.activations)
        total = [part.changed(torch.zeros_like(part.values, dtype=wide_dtype(weights.device))) for part in outputs]
    wide = torch.promote_types(weights.dtype, torch.float32)
    sums = [_summed_over_ranks(group, part).normalised() for part in total]
    return [part.changed(part.values.to(wide)) for part in sums], shape


def _summed_over_ranks(group: Group, part: Scaled) -> Scaled:
    """The sum of one tensor of the same shape per process, the same bits on all."""
    if group is None:
        return part
    part = part.normalised()
    exponent = all_reduce(group, part.exponent.clone(), "max")
    return Scaled(all_reduce(group, part.at(exponent)), exponent)
