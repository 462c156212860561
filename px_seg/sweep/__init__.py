"""Sweeps: many runs that differ in method, sparsity, seed and whatever else is varied, planned and carried out."""

from px_seg.flags import PAPER
from px_seg.sweep.plan import Cell, Request, plan_sweep
from px_seg.sweep.scheduler import run_sweep

__all__ = ["PAPER", "Cell", "Request", "plan_sweep", "run_sweep"]
