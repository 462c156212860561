"""A pruned network at work: smaller, and measured."""

from px_seg.pruning.compaction.shrinking import Compaction, compact, shrink

__all__ = ["Compaction", "compact", "shrink"]
