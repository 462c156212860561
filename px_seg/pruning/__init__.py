"""Pruning at initialisation. Knows torch only: no datasets, no Accelerate, no task."""

from px_seg.pruning.criteria.base import CRITERIA, Criterion, criterion, register
from px_seg.pruning.criteria.data_free import Dense, Magnitude, Random, RandomERK
from px_seg.pruning.criteria.gradients import SNIP, Fisher, GraSP, IterativeSNIP, LossCriterion
from px_seg.pruning.criteria.imp import IMP, TrainingCriterion
from px_seg.pruning.criteria.ntk_trace import NTKTrace
from px_seg.pruning.criteria.ntksap import NTKSAP
from px_seg.pruning.criteria.px import PX, PXConserved
from px_seg.pruning.criteria.px_paths import PXPaths
from px_seg.pruning.criteria.synflow import SynFlow, SynFlowL2
from px_seg.pruning.density_schedule import exponential
from px_seg.pruning.granularity import GRANULARITIES, check_granularity, check_whole, largest_unit
from px_seg.pruning.iterative import NothingToRank, Repair, carry_out, prune, scored
from px_seg.pruning.masks import Masks
from px_seg.pruning.paths.operations import UnsupportedOperation
from px_seg.pruning.paths.total import NoPathLeft
from px_seg.pruning.pattern import Pattern
from px_seg.pruning.plan import Plan, check_ranking, plan_pruning
from px_seg.pruning.provenance import Provenance
from px_seg.pruning.rankings import RANKINGS
from px_seg.pruning.scope import prunable

__all__ = [
    "CRITERIA",
    "GRANULARITIES",
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
    "NTKTrace",
    "NoPathLeft",
    "NothingToRank",
    "PXConserved",
    "PXPaths",
    "Pattern",
    "Plan",
    "Provenance",
    "Random",
    "RandomERK",
    "Repair",
    "SynFlow",
    "SynFlowL2",
    "TrainingCriterion",
    "UnsupportedOperation",
    "carry_out",
    "check_granularity",
    "check_ranking",
    "check_whole",
    "criterion",
    "exponential",
    "largest_unit",
    "plan_pruning",
    "prunable",
    "prune",
    "register",
    "scored",
]
