"""Pruning at initialisation. Knows torch only: no datasets, no Accelerate, no task."""

from px_seg.pruning.criteria import (
    CRITERIA,
    IMP,
    NTKSAP,
    PX,
    SNIP,
    Criterion,
    Dense,
    Fisher,
    GraSP,
    IterativeSNIP,
    LossCriterion,
    Magnitude,
    NothingToRank,
    Random,
    RandomERK,
    SynFlow,
    SynFlowL2,
    TrainingCriterion,
    criterion,
    register,
    worth_ranking,
)
from px_seg.pruning.distribution import RANKINGS
from px_seg.pruning.masks import Masks
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.prune import check_distribution, exponential, planned, prune, readable
from px_seg.pruning.rules import UnsupportedOperation
from px_seg.pruning.scope import prunable

__all__ = [
    "CRITERIA",
    "IMP",
    "NTKSAP",
    "PX",
    "RANKINGS",
    "SNIP",
    "Criterion",
    "Dense",
    "Fisher",
    "GraSP",
    "IterativeSNIP",
    "LossCriterion",
    "Magnitude",
    "Masks",
    "NothingToRank",
    "Pattern",
    "Random",
    "RandomERK",
    "SynFlow",
    "SynFlowL2",
    "TrainingCriterion",
    "UnsupportedOperation",
    "check_distribution",
    "criterion",
    "exponential",
    "planned",
    "prunable",
    "prune",
    "readable",
    "register",
    "worth_ranking",
]
