"""In which numbers the path streams are computed."""

import torch

PRECISIONS: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}
"""float16 is missing: its range ends at 2**16, which a single layer can pass."""


def walk_dtype(precision: str | None, weights: torch.dtype) -> torch.dtype:
    """The dtype of the walk; unless one is given, that of the weights, float32 for float16."""
    if precision is not None:
        return PRECISIONS[precision]
    return torch.float32 if weights == torch.float16 else weights
