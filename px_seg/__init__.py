"""Path eXclusion pruning and transfer for segmentation models."""

from px_seg.errors import InputError
from px_seg.models import build_segmenter
from px_seg.pruning import (
    IMP,
    NTKSAP,
    PX,
    SNIP,
    Criterion,
    Fisher,
    GraSP,
    IterativeSNIP,
    Magnitude,
    Masks,
    Random,
    RandomERK,
    SynFlow,
    SynFlowL2,
    UnsupportedOperation,
    criterion,
    prunable,
    prune,
    register,
)

__all__ = [
    "IMP",
    "NTKSAP",
    "PX",
    "SNIP",
    "Criterion",
    "Fisher",
    "GraSP",
    "InputError",
    "IterativeSNIP",
    "Magnitude",
    "Masks",
    "Random",
    "RandomERK",
    "SynFlow",
    "SynFlowL2",
    "UnsupportedOperation",
    "build_segmenter",
    "criterion",
    "prunable",
    "prune",
    "register",
]
