"""Where a piece of work spends its time."""

import time

import torch
from torch.autograd.profiler import profile

from px_seg.cost import Work, synchronise

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
    synchronise(device)
    started = time.perf_counter()
    with profile(use_device="cuda" if cuda else None, use_kineto=cuda) as recorded:
        work()
        synchronise(device)
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
