"""Whether a network can be made smaller, and whether the smaller one is the same."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from px_seg.errors import InputError, one_line
from px_seg.pruning.compaction.narrow import Constants, Narrow
from px_seg.pruning.masks import check_fit
from px_seg.pruning.modes import batch_statistics, evaluating, undisturbed
from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.operations import UnsupportedOperation


def check_model(model: nn.Module, masks: Mapping[str, Tensor] | None) -> None:
    """Raises InputError for a model without weights or whose weights have no values, and for masks that do not fit."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise InputError("the model has no weights that could be pruned")
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters.values()):
        raise InputError("the model has lazy layers without weights: run it once")
    if any(parameter.is_meta for parameter in parameters.values()):
        raise InputError("weights of the model are on the meta device, where they have no values")
    if any(isinstance(module, Narrow) for module in model.modules()):
        raise InputError("the model has been compacted already: compact the one that it was made of")
    check_fit(masks or {}, parameters)


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model. Raises InputError if it cannot be copied."""
    with _one_line("the model cannot be copied: make what computes its weights permanent first, see torch.nn.utils"):
        return copy.deepcopy(model)


def random_images(model: nn.Module, shape: Sequence[int]) -> list[Tensor]:
    """Two random images of this shape, (2, C, H, W), and three of twice its sides where the model takes them.

    Raises InputError if it does not run on the first.
    """
    like, generator = next(model.parameters()), torch.Generator().manual_seed(0)
    images = torch.randn(2, *shape, generator=generator).to(like)
    with _one_line(f"the model does not run on images of shape {tuple(shape)}: pass the shape of yours"):
        _outputs(model, images)
    larger = torch.randn(3, shape[0], *(2 * side for side in shape[1:]), generator=generator).to(like)
    try:
        _outputs(model, larger)
    except Exception:
        # Networks with linear layers over places take one size.
        return [images]
    return [images, larger]


def check_same(dense: nn.Module, small: nn.Module, images: Sequence[Tensor]) -> None:
    """Raises UnsupportedOperation if the two models return different things for the images.

    In eval mode, and again with BatchNorms in training.
    """
    for batch in images:
        # Statistics of small batches divide by small variances again and again.
        for run, factor in ((_outputs, 1), (_by_batch, 30)):
            try:
                pairs = list(zip(run(dense, batch), run(small, batch), strict=True))
            except Exception as error:
                # What a network does that is cut in the wrong place is anything at all.
                raise UnsupportedOperation(f"the smaller network does not run: {one_line(error, 200)}") from error
            for one, other in pairs:
                tolerance = factor * torch.finfo(one.dtype).eps ** 0.5
                if one.shape != other.shape or not _near(one, other, tolerance):
                    raise UnsupportedOperation(
                        "the smaller network returns something else: the model does what its operations do not show, "
                        "such as to compute with its number of channels or of images, or to do other things in training"
                    )


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return False
    one, other = (torch.where(finite, x, 0).double() for x in (one, other))
    return bool((one - other).norm() <= tolerance * one.norm())


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    with undisturbed(images.device), torch.no_grad(), evaluating(model), _drawing(images):
        return [out for out in leaves(model(images)) if isinstance(out, Tensor) and out.is_floating_point()]


def _by_batch(model: nn.Module, images: Tensor) -> list[Tensor]:
    model = copy.deepcopy(model)
    with undisturbed(images.device), torch.no_grad(), batch_statistics(model), _drawing(images):
        for module in model.modules():
            if isinstance(module, Constants):
                module.train()
        return [out for out in leaves(model(images)) if isinstance(out, Tensor) and out.is_floating_point()]


@contextmanager
def _drawing(images: Tensor) -> Iterator[None]:
    """Within the context random numbers are always the same, and the caller's go on afterwards."""
    with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(f"{what} ({one_line(error, 200)})") from error
