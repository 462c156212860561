"""The bound R on the trace of the Neural Tangent Kernel, and its derivatives by the weights squared."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.paths import evaluating, path_activations, path_kernel
from px_seg.pruning.precision import arithmetic, walk_dtype
from px_seg.pruning.readings import Squares, TrueAndLive
from px_seg.pruning.rules import UnsupportedOperation
from px_seg.pruning.scaled import Scaled, add, align
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.sharing import Group, everyone, sum_over
from px_seg.pruning.streams import Activations, Kernel

Batches: TypeAlias = Iterable[Tensor | tuple[Tensor, Any] | list[Any]]
"""Image tensors (N, C, H, W), or pairs that begin with one."""


class Streams(NamedTuple):
    """A reading of the network: how each stream passes its parts."""

    activations: type[Activations]
    kernel: type[Kernel]


FOLD = Streams(Activations, Kernel)
"""Each BatchNorm by its running statistics, as part of the weights (docs/method.md, section 2)."""


class PathBound(NamedTuple):
    """R = sum_x sum_k g_k(x) h_k, in units of 2**exponent, and its parts by parameter name."""

    total: Tensor
    """0-d: R / 2**exponent, near 1."""

    exponent: int

    squares: dict[str, Tensor]
    """(theta * mask)**2."""

    gradients: dict[str, Tensor]
    """dR/d(theta**2) / 2**exponent."""

    def unit(self) -> float:
        """2**exponent where R leaves half of its dtype's range on either side to its shares, otherwise 1."""
        magnitude = int(torch.frexp(self.total).exponent) + self.exponent
        largest = math.frexp(torch.finfo(self.total.dtype).max)[1]
        return 2.0**self.exponent if abs(magnitude) < largest // 2 else 1.0


def path_bound(
    model: nn.Module,
    batches: Batches,
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope = None,
    streams: Streams = FOLD,
    precision: str | None = None,
    group: Group = None,
) -> PathBound:
    """R over all outputs of the whole model, differentiated by the weights in `scope`.

    The batches are those of this process; g is summed over those of all processes in `group`.
    All samples have one shape. h and the gradients are computed in at least float32, whatever
    the precision of the walk.

    Raises InputError for no batches, samples of different shapes, a non-finite R, and masks that do
    not fit or leave no path, and UnsupportedOperation, naming
    module and operation, where paths are not defined.
    """
    masks = masks or {}
    scored, known = prunable(model, scope), prunable(model)
    parameters = dict(model.named_parameters())
    for name in masks:
        if name in parameters and name not in known:
            raise InputError(f"the mask of {name} is not one of a convolution's or linear layer's weight")
    like = next(iter(scored.values()))
    dtype = walk_dtype(precision, like.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    # The caller's own contexts must not reach the walk: autocast would change its dtype, and a
    # compiled model hide its operations.
    with (
        torch.inference_mode(False),
        torch.autocast(like.device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
        evaluating(model),
    ):
        with arithmetic(precision, like.device):
            activations, shape = _summed_activations(model, batches, TrueAndLive(model, masks, dtype), streams, group)
        weights = Squares(model, masks, wide, scored)
        sample = torch.ones((1, *shape), dtype=wide, device=like.device)
        with arithmetic(None, like.device):
            return _differentiated(activations, path_kernel(model, sample, weights, streams.kernel), weights)


def _differentiated(activations: list[Scaled], kernel: list[Scaled], weights: Squares) -> PathBound:
    """R from its two streams, and its gradients by the leaves of `weights`."""
    products = []
    for g, h in zip(activations, kernel, strict=True):
        if g.values.shape != h.values.shape:
            raise UnsupportedOperation(
                f"an output of the model has shape {tuple(g.values.shape)} for a sample of a batch and "
                f"{tuple(h.values.shape)} for a sample alone"
            )
        products.append(Scaled((g.values * h.values).sum(), g.exponent + h.exponent).normalised())
    parts, exponent, _ = align(products)
    total = torch.stack(parts).sum()
    if not total.isfinite():
        raise InputError(
            "PX: the trace bound is not finite: weights or images hold NaN or infinity, or the network's own "
            f"activations leave the range of {total.dtype}"
        )
    if total == 0:
        raise InputError(
            "PX: no path from the input to the output is left: all pass a pruned weight, a weight of 0 or a shut gate: "
            "ask for a lower sparsity (or for precision float64, where values leave the range of float32)"
        )
    if not total.requires_grad:
        raise InputError("PX: no output of the model depends on a weight in scope")
    leaves = weights.leaves
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return PathBound(
        total.detach(),
        int(exponent),
        {name: leaf.detach() for name, leaf in leaves.items()},
        {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), gradients, strict=True)},
    )


def _summed_activations(
    model: nn.Module, batches: Batches, weights: TrueAndLive, streams: Streams, group: Group
) -> tuple[list[Scaled], torch.Size]:
    """Path activations summed over all samples of all processes, one per output, and a sample's shape."""
    total: list[Scaled] = []
    shape, failure = None, None
    try:
        for images in _images(batches, weights):
            shape = images.shape[1:]
            outputs = path_activations(model, images, weights, streams.activations)
            if total and len(total) != len(outputs):
                raise InputError(
                    f"PX: the model returns {len(total)} outputs for one batch and {len(outputs)} for another"
                )
            total = [add(a, b) for a, b in zip(total, outputs, strict=True)] if total else outputs
    except InputError as error:
        # Told to the others first: they would wait for this process.
        failure = error
    reports = everyone(group, (shape, None if failure is None else str(failure)))
    if failure is not None:
        raise failure
    for _, message in reports:
        if message is not None:
            raise InputError(f"another process could not score: {message}")
    shapes = sorted({other for other, _ in reports if other is not None})
    if not shapes:
        raise InputError("PX scores with data: give it at least one batch")
    if len(shapes) > 1:
        raise InputError(f"PX needs samples of one shape: got {' and '.join(str(tuple(s)) for s in shapes)}")
    if shape is None:
        # This process has no batch: it walks one that counts for nothing, to learn the outputs' shapes.
        shape = shapes[0]
        nothing = torch.zeros((1, *shape), dtype=weights.dtype, device=weights.device)
        outputs = path_activations(model, nothing, weights, streams.activations)
        total = [part.changed(torch.zeros_like(part.values)) for part in outputs]
    return [sum_over(group, part) for part in total], shape


def several(batches: Batches) -> Batches:
    """The batches as they are. InputError for a single tensor, whose parts would pass for batches."""
    if isinstance(batches, Tensor):
        raise InputError("batches is a list of image tensors, got a single tensor: put it in a list")
    return batches


def _images(batches: Batches, weights: TrueAndLive) -> Iterator[Tensor]:
    """The images of every batch, in the dtype of the walk. InputError unless they are tensors of one sample shape."""
    shape = None
    for batch in several(batches):
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor) or images.dim() < 2 or images.numel() == 0 or images.is_complex():
            what = (
                f"a tensor of shape {tuple(images.shape)} and {images.dtype}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise InputError(
                f"PX: a batch is a real tensor (N, ...) of images, or a pair that begins with one; got {what}"
            )
        if shape is not None and images.shape[1:] != shape:
            raise InputError(f"PX needs samples of one shape: got {tuple(shape)} and {tuple(images.shape[1:])}")
        shape = images.shape[1:]
        yield images.to(weights.device, weights.dtype)
