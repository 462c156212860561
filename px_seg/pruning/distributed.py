"""What the processes that share the batches of one pruning tell each other.

A group is a torch.distributed process group, `torch.distributed.group.WORLD` for all
processes; None stands for this process alone.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from px_seg.errors import InputError
from px_seg.pruning.masks import Masks

T = TypeVar("T")

Group: TypeAlias = Any
"""torch.distributed.ProcessGroup, or None: torch builds without distributed lack the type."""


def everyone() -> Group:
    """All processes of this launch; None where there is one alone."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def all_reduce(group: Group, tensor: Tensor, operation: str = "sum") -> Tensor:
    """The "sum" or "max" of a tensor of the same shape per process, the same bits on all, in this one's memory."""
    if group is None:
        return tensor
    tensor = tensor.contiguous()
    dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[operation], group=group)
    return tensor


def all_gather(group: Group, value: Any) -> list[Any]:
    """The small value of every process, in the order of their ranks."""
    if group is None:
        return [value]
    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def run_on_all_ranks(group: Group, work: Callable[[], T]) -> T:
    """What `work` returns on this process, once it is done on all.

    An error of one process is raised on all, because the others would wait for it: an InputError as such, another
    as a RuntimeError on the others.
    """
    if group is None:
        return work()
    done: list[T] = []
    failure: Exception | None = None
    try:
        done.append(work())
    except Exception as error:
        failure = error
    reports = all_gather(group, None if failure is None else (isinstance(failure, InputError), str(failure)))
    if failure is not None:
        raise failure
    for report in reports:
        if report is not None:
            bad_input, message = report
            raise (InputError if bad_input else RuntimeError)(f"another process could not score: {message}")
    return done[0]


def broadcast_masks(group: Group, masks: Masks) -> Masks:
    """The masks of the group's first process, on all.

    Every process ranks the same sums, but the kernels by which a GPU goes backward need not
    give the same last bit twice.
    """
    if group is None:
        return masks
    live = torch.cat([mask.flatten() for mask in masks.values()]).to(torch.uint8)
    dist.broadcast(live, group=group, group_src=0)
    parts = torch.split(live.bool(), [mask.numel() for mask in masks.values()])
    return Masks({n: p.view(m.shape) for (n, m), p in zip(masks.items(), parts, strict=True)}, masks.provenance)
