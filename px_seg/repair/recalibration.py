"""Repairs of a pruned network that need images, but no labels and no training."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from px_seg.errors import InputError
from px_seg.pruning import Masks
from px_seg.pruning.batches import NO_IMAGES, Batches, checked_batches, images_of
from px_seg.pruning.masks import check_fit
from px_seg.pruning.scope import Scope, as_list, inside, prunable
from px_seg.pruning.statistics import statistics_of
from px_seg.repair.pairing import side_by_side
from px_seg.repair.reconstruction import check_linear, reconstructed
from px_seg.repair.variance import with_variances

REPAIRS = ("statistics", "variance", "reconstruct")

IMAGES, PIXELS = 128, 2**23
"""Of the images given, `variance` and `reconstruct` use as many as this, and no more than have so many pixels together
(32 of 512x512), but at least one: they hold the features of all at once."""


def recalibrate(
    model: nn.Module,
    batches: Batches,
    masks: Mapping[str, Tensor] | None = None,
    repair: str = "statistics",
    ridge: float = 1.0,
    scope: Scope = None,
) -> None:
    """Prune the model by `masks`, in place, and repair what that did, on images and without labels.

    `repair` is one of

    - `statistics`: running statistics of every BatchNorm in `scope` are gathered anew on the batches, as means over
      them (arXiv 2502.15790; `px_seg.pruning.statistics`);
    - `variance`: first every channel of a masked layer is scaled to its variance in the dense network (arXiv
      2605.21426; `px_seg.repair.variance`), then statistics as above;
    - `reconstruct`: the kept weights of each masked layer are refitted to the dense layer's outputs, from
      the input on, with a penalty of `ridge` on their change (`px_seg.repair.reconstruction`).

    `batches`: images (N, C, H, W), or pairs that begin with them; `variance` and `reconstruct` use the first 128,
    or fewer large ones (`PIXELS`), and `reconstruct` reads no more than these. The model is dense when it is given, and
    pruned weights are exactly 0 afterwards. Without masks, weights stay and `statistics` is all that can be done.

    `scope`, as for `px_seg.prune`, says whose statistics are gathered. Where the rest of a network is random, as the
    decoder of a segmenter is before training, name the part that was pruned: a rest with new statistics computes
    something else than the dense network's.

    What fails leaves the model as it was. Raises InputError for an unknown repair, no batches, masks that do not fit
    or are of anything but convolutions and linear layers, no masks where they are needed, `statistics` and `variance`
    where no BatchNorm in scope has running statistics, layers that `variance` and `reconstruct` cannot repair
    (`px_seg.repair.pairing`), and images or weights that leave a value not finite.
    """
    scope = as_list(scope)
    check_repair(model, repair, scope)
    if masks is None and repair != "statistics":
        raise InputError(f"{repair} compares the pruned network with the dense one: give it the masks")
    if not isinstance(ridge, int | float) or not 0 < ridge < math.inf:
        raise InputError(f"ridge must be a number above 0, got {ridge!r}")
    if masks is not None:
        if not isinstance(masks, Mapping):
            raise InputError(f"masks must be tensors by the names of weights, got {type(masks).__name__}")
        check_fit(masks, prunable(model))
    if masks is not None and repair == "variance":
        batches = list(checked_batches(batches))
        scaled = with_variances(model, masks, _images(model, batches))
        changed = {**scaled.state_dict(), **_statistics(scaled, batches, None, scope)}
    elif masks is not None and repair == "reconstruct":
        changed = reconstructed(model, masks, _images(model, batches), ridge).state_dict()
    else:
        changed = _statistics(model, batches, masks, scope)
    own = model.state_dict()
    changed = {name: value.to(own[name].dtype) for name, value in changed.items()}
    if wrong := [name for name, value in changed.items() if not value.isfinite().all()]:
        raise InputError(
            f"{repair} leaves {wrong[0]} not finite: the images, or the network's weights, are NaN or huge"
        )
    model.load_state_dict({**own, **changed})
    if masks is not None:
        Masks(masks).apply(model)


def check_repair(model: nn.Module, repair: str, scope: Scope = None) -> None:
    """Raise InputError for a repair that does not exist, or that the network has nothing for."""
    if repair not in REPAIRS:
        raise InputError(f"there is no repair {repair!r}: choose one of {', '.join(REPAIRS)}")
    tracked = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and inside(name, scope)
    ]
    if repair != "reconstruct" and not tracked:
        raise InputError(f"the network has no BatchNorm whose statistics {repair} could gather: use reconstruct")


def try_repair(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor, repair: str) -> None:
    """Raise InputError for layers of `masks` that the repair cannot repair, as a few images (N, C, H, W) show.

    The model stays as it is, and nothing is solved.
    """
    if repair == "variance":
        side_by_side(model, masks, images, lambda layer, inputs, wanted: None)
    if repair == "reconstruct":
        side_by_side(model, masks, images, lambda layer, inputs, wanted: check_linear(layer, inputs[:1]))


def _statistics(
    model: nn.Module, batches: Batches, masks: Mapping[str, Tensor] | None, scope: Scope
) -> dict[str, Tensor]:
    found = statistics_of(model, batches, masks)
    return {name: value for name, value in found.items() if inside(name.rpartition(".")[0], scope)}


def _images(model: nn.Module, batches: Batches) -> Tensor:
    """The first images, as one tensor on the model's device."""
    like = next(model.parameters())
    wide = torch.empty(0, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    first: list[Tensor] = []
    wished = 1
    for images in images_of(batches, wide):
        wished = max(1, min(IMAGES, PIXELS // images[0, 0].numel()))
        first.append(images[: wished - sum(map(len, first))])
        if sum(map(len, first)) == wished:
            break
    if not first:
        raise InputError(NO_IMAGES)
    return torch.cat(first)
