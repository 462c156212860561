"""Time and peak memory of a piece of work, measured next to a reference in the same process."""

import gc
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.autograd.profiler import profile

# The profiler otherwise writes lines of its own beside what is printed.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Work = Callable[[], Any]


GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups, versions 2 and 1, by the controller's name: the files that say what one may take and takes, and
the key of what it can give up."""


def free_memory(
    device: torch.device, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that this process could still take on a device, within the bounds of its container or job.

    Those are of the control groups below `root` that the file `own` names, and of all that these are in.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = float(psutil.virtual_memory().available)
    lines = own.read_text().splitlines() if own.is_file() else ["0::/"]
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        for name in GROUPS.keys() & set(controllers.split(",")):
            group = root / name / path.strip("/")
            for place in (group, *group.parents):
                free = min(free, _left(place, *GROUPS[name]) if place.is_relative_to(root) else free)
    return max(0, int(free))


def _left(group: Path, most: str, taken: str, spare: str) -> float:
    """What a control group may still take; infinite where it has no bound, or is not seen from here."""
    try:
        limit = (group / most).read_text().strip()
        about = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return math.inf if limit == "max" else int(limit) - int((group / taken).read_text()) + int(about.get(spare, 0))
    except OSError:
        return math.inf


def clock(device: torch.device, work: Work) -> tuple[float, Any]:
    """Seconds that the work takes, a GPU's included, and what it returns."""
    synchronise(device)
    started = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - started, result


def timings(device: torch.device, works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` runs of each work, taken in turns after one warm-up run of each.

    In turns, so that a machine that slows down or speeds up does so for all.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(clock(device, work)[0])
    return times


def seconds(device: torch.device, works: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """The shortest of each work's `timings`."""
    return {name: min(measured) for name, measured in timings(device, works, repeats).items()}


def peak_bytes(device: torch.device, work: Work) -> int:
    """Peak memory that torch holds during the work beyond what it held before, after one warm-up run.

    On a CPU it is summed from the allocations that torch's profiler sees at the ends of operators;
    what an operator allocates and frees internally is not included.
    """
    work()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as recorded:
        work()
    changes = sorted(
        (event.time_range.end, event.cpu_memory_usage if event.name == "[memory]" else event.self_cpu_memory_usage)
        for event in recorded.function_events
    )
    return max(itertools.accumulate(change for _, change in changes))


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
