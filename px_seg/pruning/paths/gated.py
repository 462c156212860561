"""The paths' squared values under the true network's gates, and their derivatives by the weights squared."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from px_seg.pruning.batches import Batches, images_of, one_shape
from px_seg.pruning.distributed import Group, all_gather, run_on_all_ranks
from px_seg.pruning.modes import evaluating, undisturbed
from px_seg.pruning.paths.scaled import Scaled
from px_seg.pruning.paths.total import PathTotal, RunningTotal, differentiated, scored_weights
from px_seg.pruning.paths.walk import gated_kernel
from px_seg.pruning.paths.weights import TrueAndSquares
from px_seg.pruning.scope import Scope


def gated_total(
    model: nn.Module,
    batches: Batches,
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope = None,
    group: Group = None,
) -> PathTotal:
    """T = sum over samples, outputs and paths of v_p(theta)**2 a_p(x) x_s(p)**2, differentiated by weights in `scope`.

    The batches are those of this process; the sum is over those of all processes in `group`. Computed in at least
    float32, batch by batch: a batch is walked once and differentiated, which keeps the input of every layer.

    Raises what `px_seg.pruning.paths.bound.path_bound` raises.
    """
    masks = masks or {}
    scored = scored_weights(model, masks, scope)
    like = next(iter(scored.values()))
    wide = torch.promote_types(like.dtype, torch.float32)
    with evaluating(model), undisturbed(like.device):
        weights = TrueAndSquares(model, masks, wide, scored)
        running = RunningTotal(weights)

        def own() -> torch.Size | None:
            shape = None
            for images in images_of(batches, torch.empty((), dtype=wide, device=like.device)):
                shape = images.shape[1:]
                outputs = gated_kernel(model, images, weights)
                running.add(differentiated([Scaled(x.values.sum(), x.exponent) for x in outputs], weights))
            return shape

        one_shape(all_gather(group, run_on_all_ranks(group, own)))
        return running.over(group).checked()
