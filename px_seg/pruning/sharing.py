"""What the processes that share the batches of one pruning tell each other.

A group is a torch.distributed process group, `torch.distributed.group.WORLD` for all
processes; None stands for this process alone.
"""

from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from px_seg.pruning.masks import Masks
from px_seg.pruning.scaled import Scaled

Group: TypeAlias = Any
"""torch.distributed.ProcessGroup, or None: torch builds without distributed lack the type."""


def sum_over(group: Group, part: Scaled) -> Scaled:
    """The sum of one tensor of the same shape per process, the same bits on all."""
    if group is None:
        return part
    part = part.normalised()
    exponent = part.exponent.clone()
    dist.all_reduce(exponent, dist.ReduceOp.MAX, group=group)
    values = part.at(exponent).contiguous()
    dist.all_reduce(values, group=group)
    return Scaled(values, exponent)


def everyone(group: Group, value: Any) -> list[Any]:
    """The small value of every process, in the order of their ranks."""
    if group is None:
        return [value]
    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def first_ones(group: Group, masks: Masks) -> Masks:
    """The masks of the group's first process, on all.

    Every process ranks the same sums, but the kernels by which a GPU goes backward need not
    give the same last bit twice.
    """
    if group is None:
        return masks
    live = torch.cat([mask.flatten() for mask in masks.values()]).to(torch.uint8)
    dist.broadcast(live, group=group, group_src=0)
    parts = live.bool().split([mask.numel() for mask in masks.values()])
    return Masks({n: p.view(m.shape) for (n, m), p in zip(masks.items(), parts, strict=True)}, masks.metadata)
