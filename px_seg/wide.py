"""The type in which sums are kept that must not depend on the order of their terms."""

import torch


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64; float32 on Apple's GPUs, which have no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64
