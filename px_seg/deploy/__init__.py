"""A network at work: made smaller, measured, and labelling images."""

from px_seg.deploy.predicting import Views, predict
from px_seg.deploy.runs import measure_missing, read_measured
from px_seg.pruning.compaction.shrinking import Compaction, compact, shrink

__all__ = ["Compaction", "Views", "compact", "measure_missing", "predict", "read_measured", "shrink"]
