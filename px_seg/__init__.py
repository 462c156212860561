"""Path eXclusion pruning and transfer for segmentation models."""

from px_seg.errors import InputError
from px_seg.models import build_segmenter
from px_seg.pruning import PX, Criterion, Magnitude, Masks, Random, UnsupportedOperation, criterion, prunable, prune

__all__ = [
    "PX",
    "Criterion",
    "InputError",
    "Magnitude",
    "Masks",
    "Random",
    "UnsupportedOperation",
    "build_segmenter",
    "criterion",
    "prunable",
    "prune",
]
