"""Criteria: what a weight is worth. A criterion only scores; `prune` ranks and masks."""

from px_seg.pruning.criteria.base import CRITERIA, Criterion, NothingToRank, criterion, register, worth_ranking
from px_seg.pruning.criteria.data_free import Dense, Magnitude, Random, RandomERK
from px_seg.pruning.criteria.gradients import SNIP, Fisher, GraSP, IterativeSNIP, LossCriterion
from px_seg.pruning.criteria.imp import IMP, TrainingCriterion
from px_seg.pruning.criteria.ntksap import NTKSAP
from px_seg.pruning.criteria.paths import PX, SynFlow, SynFlowL2

__all__ = [
    "CRITERIA",
    "IMP",
    "NTKSAP",
    "PX",
    "SNIP",
    "Criterion",
    "Dense",
    "Fisher",
    "GraSP",
    "IterativeSNIP",
    "LossCriterion",
    "Magnitude",
    "NothingToRank",
    "Random",
    "RandomERK",
    "SynFlow",
    "SynFlowL2",
    "TrainingCriterion",
    "criterion",
    "register",
    "worth_ranking",
]
