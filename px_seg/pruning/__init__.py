"""Pruning at initialisation. Knows torch only: no datasets, no Accelerate, no task."""

from px_seg.pruning.criteria.base import CRITERIA, Criterion, criterion, register
from px_seg.pruning.criteria.data_free import Dense, Magnitude, Random, RandomERK
from px_seg.pruning.criteria.gradients import SNIP, Fisher, GraSP, IterativeSNIP, LossCriterion
from px_seg.pruning.criteria.imp import IMP, TrainingCriterion
from px_seg.pruning.criteria.ntksap import NTKSAP
from px_seg.pruning.criteria.paths import PX, SynFlow, SynFlowL2
from px_seg.pruning.distribution import RANKINGS
from px_seg.pruning.masks import Masks
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.prune import NothingToRank, check_distribution, exponential, planned, prune, scored
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
    "register",
    "scored",
]
