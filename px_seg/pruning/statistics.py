"""BatchNorm statistics of given batches under given masks, gathered beside the model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from px_seg.pruning.batches import Batches, images_of, one_shape
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.masked_network import masked
from px_seg.pruning.modes import batch_statistics, last_batch_only
from px_seg.wide import wide_dtype

_MOMENTS = ("running_mean", "running_var")


def statistics_of(
    model: nn.Module, batches: Batches, masks: Mapping[str, Tensor] | None = None, group: Group = None
) -> dict[str, Tensor]:
    """Means and variances of every BatchNorm that has running ones, by buffer name, in at least float32.

    Each is the mean, over the batches of all processes in `group`, of what the batch has at that layer in a network
    under `masks` whose BatchNorms normalise by it, as in training; dropout is off. The variance is the
    unbiased one that torch keeps; of a BatchNorm that is used several times the last use counts. The model is not
    changed.

    Raises InputError for no batches, samples of different shapes, masks that do not fit, and batches of one
    sample where a BatchNorm sees one value a channel.
    """
    with masked(model, masks, None, batch_statistics) as network, torch.no_grad(), last_batch_only(model):
        names = [
            f"{prefix}.{moment}" if prefix else moment
            for prefix, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for moment in _MOMENTS
        ]
        wide = wide_dtype(network.like.device)
        total = {name: torch.zeros_like(network.buffers[name], dtype=wide) for name in names}

        def own() -> tuple[int, torch.Size | None]:
            count, shape = 0, None
            for images in images_of(batches, network.like):
                count, shape = count + 1, images.shape[1:]
                network(images)
                for name, part in total.items():
                    part += network.buffers[name]
            return count, shape

        counts, shapes = zip(*all_gather(group, run_on_all_ranks(group, own)), strict=True)
        one_shape(shapes)
        return {
            name: all_reduce(group, part).div_(sum(counts)).to(network.buffers[name]) for name, part in total.items()
        }


@contextmanager
def lent_statistics(model: nn.Module, statistics: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context BatchNorms have these running statistics, by buffer name; afterwards their own again."""
    own = []
    try:
        for name, value in statistics.items():
            prefix, _, moment = name.rpartition(".")
            module = model.get_submodule(prefix)
            own.append((module, moment, getattr(module, moment)))
            # In the statistics' own dtype: a variance need not fit in half precision.
            setattr(module, moment, value)
        yield
    finally:
        for module, moment, value in own:
            setattr(module, moment, value)
