"""In which numbers the path streams are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from px_seg.errors import InputError

PRECISIONS: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}
"""float16 is missing: its range ends at 2**16, which a single layer can pass."""


def walk_dtype(precision: str | None, weights: torch.dtype) -> torch.dtype:
    """The dtype of the walk; without a wish the weights' own, float32 for float16."""
    if precision is not None:
        return PRECISIONS[precision]
    return torch.float32 if weights == torch.float16 else weights


@contextmanager
def arithmetic(precision: str | None, device: torch.device) -> Iterator[None]:
    """Within the context a GPU rounds to TF32 in convolutions and products if asked to, and not otherwise.

    torch's own default rounds in convolutions. Raises InputError for `tf32` without a GPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"tf32 is arithmetic of NVIDIA GPUs and the model is on {device.type}: leave precision out")
    if device.type != "cuda":
        yield
        return
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            _set(switch, "tf32" if precision == "tf32" else "ieee")
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            _set(switch, value)


def _set(switch: Any, value: str) -> None:
    # Only where it changes something: a switch that is set no longer follows torch's common one.
    if switch.fp32_precision != value:
        switch.fp32_precision = value
