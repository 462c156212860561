"""Sweeps: many runs that differ in method, sparsity, seed and whatever else is varied, planned and carried out."""

from px_seg.sweep.conduct import conduct
from px_seg.sweep.plan import PAPER, Cell, Request, plan

__all__ = ["PAPER", "Cell", "Request", "conduct", "plan"]
