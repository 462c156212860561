"""Time and peak memory of a piece of work, measured next to a reference in the same process."""

import gc
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd.profiler import profile

Work = Callable[[], Any]


def clock(device: torch.device, work: Work) -> tuple[float, Any]:
    """Seconds that the work takes, a GPU's included, and what it returns."""
    _synchronise(device)
    started = time.perf_counter()
    result = work()
    _synchronise(device)
    return time.perf_counter() - started, result


def seconds(device: torch.device, works: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """The shortest of `repeats` runs of each work, taken in turns after one warm-up run of each.

    In turns, so that a machine that slows down or speeds up does so for all.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(clock(device, work)[0])
    return {name: min(measured) for name, measured in times.items()}


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


GROUPS = {
    "convolutions forward": ("mkldnn_convolution", "cudnn_convolution", "slow_conv", "conv_depthwise", "addmm", "mm"),
    "convolutions backward": ("convolution_backward", "slow_conv2d_backward", "slow_conv_dilated_backward"),
    "BatchNorm": ("native_batch_norm", "cudnn_batch_norm"),
    "ReLU, gates": ("clamp_min", "threshold_backward"),
    "sums, products, rescaling": ("add", "mul", "aminmax", "sum", "pow", "exp2"),
    "pooling, upsampling, concatenation": ("max_pool2d", "gather", "upsample", "mean", "cat", "avg_pool2d"),
    "copies and casts": ("copy_", "empty", "fill_", "clone"),
    "comparing and selecting (ranking)": (
        "gt",
        "ge",
        "bitwise",
        "index",
        "nonzero",
        "sort",
        "kthvalue",
        "all",
        "count",
    ),
}


def breakdown(device: torch.device, work: Work) -> dict[str, float]:
    """Seconds spent in torch's operators during the work, by kind of operator, and outside of them."""
    work()
    cuda = device.type == "cuda"
    _synchronise(device)
    started = time.perf_counter()
    with profile(use_device="cuda" if cuda else None, use_kineto=cuda) as recorded:
        work()
        _synchronise(device)
    whole = time.perf_counter() - started
    spent = dict.fromkeys(GROUPS, 0.0)
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::").lstrip("_")
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        group = max(
            ((len(p), g) for g, patterns in GROUPS.items() for p in patterns if name.startswith(p)), default=None
        )
        if group is not None:
            spent[group[1]] += own / 1e6
    return spent | {"other operators, idle, Python": whole - sum(spent.values())}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
