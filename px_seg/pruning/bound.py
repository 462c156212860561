"""The bound R on the trace of the Neural Tangent Kernel, and its derivatives by the weights squared."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.paths import evaluating, path_activations, path_kernel
from px_seg.pruning.precision import arithmetic, walk_dtype
from px_seg.pruning.readings import Squares, TrueAndLive
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
        """2**exponent where R itself fits its dtype with room to spare, otherwise 1."""
        magnitude = int(torch.frexp(self.total).exponent) + self.exponent
        largest = math.frexp(torch.finfo(self.total.dtype).max)[1]
        fits = abs(magnitude) < largest - 1 and abs(self.exponent) < 1000
        return 2.0**self.exponent if fits else 1.0


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

    Raises ValueError for no batches, samples of different shapes or a non-finite R,
    InputError when the masks do not fit or leave no path, and UnsupportedOperation, naming
    module and operation, where paths are not defined.
    """
    masks = masks or {}
    scored = prunable(model, scope)
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
        arithmetic(precision, like.device),
    ):
        activations, shape = _summed_activations(model, batches, TrueAndLive(model, masks, dtype), streams, group)
        weights = Squares(model, masks, wide, scored)
        sample = torch.ones((1, *shape), dtype=wide, device=like.device)
        kernel = path_kernel(model, sample, weights, streams.kernel)
        products = [
            Scaled((g.values * h.values).sum(), g.exponent + h.exponent)
            for g, h in zip(activations, kernel, strict=True)
        ]
        parts, exponent, _ = align([product.normalised() for product in products])
        total = torch.stack(parts).sum()
        if not total.isfinite():
            raise ValueError("PX: the trace bound is not finite: the weights or the images hold NaN or infinity")
        if total == 0:
            raise InputError("PX: no path from the input to the output is left: ask for a lower sparsity")
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
    like = next(model.parameters())
    total: list[Scaled] = []
    shape = None
    for batch in batches:
        images = (batch if isinstance(batch, Tensor) else batch[0]).to(like.device, weights.dtype(like))
        if shape is not None and images.shape[1:] != shape:
            raise ValueError(f"PX needs samples of one shape: got {tuple(shape)} and {tuple(images.shape[1:])}")
        shape = images.shape[1:]
        outputs = path_activations(model, images, weights, streams.activations)
        total = [add(a, b) for a, b in zip(total, outputs, strict=True)] if total else outputs
    shapes = {other for other in everyone(group, shape) if other is not None}
    if not shapes:
        raise ValueError("PX scores with data: give it at least one batch")
    if len(shapes) > 1:
        raise ValueError(f"PX needs samples of one shape: got {' and '.join(str(tuple(s)) for s in sorted(shapes))}")
    if shape is None:
        # This process has no batch: it walks one that counts for nothing, to learn the outputs' shapes.
        shape = shapes.pop()
        nothing = torch.zeros((1, *shape), dtype=weights.dtype(like), device=like.device)
        outputs = path_activations(model, nothing, weights, streams.activations)
        total = [part.changed(torch.zeros_like(part.values)) for part in outputs]
    return [sum_over(group, part) for part in total], shape
