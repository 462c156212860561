"""Pruning at initialisation. Knows torch only: no datasets, no Accelerate, no task."""

from px_seg.pruning.criteria import CRITERIA, PX, Criterion, Magnitude, Random, criterion
from px_seg.pruning.masks import Masks
from px_seg.pruning.prune import exponential, prune
from px_seg.pruning.rules import UnsupportedOperation
from px_seg.pruning.scope import prunable

__all__ = [
    "CRITERIA",
    "PX",
    "Criterion",
    "Magnitude",
    "Masks",
    "Random",
    "UnsupportedOperation",
    "criterion",
    "exponential",
    "prunable",
    "prune",
]
