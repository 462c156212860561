"""After training: a pruned network smaller and faster."""

from px_seg.deploy.compaction import Compaction, compact, shrink

__all__ = ["Compaction", "compact", "shrink"]
