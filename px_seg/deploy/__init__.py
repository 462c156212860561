"""A network at work: made smaller, measured, and labelling images."""

from px_seg.deploy.exported import Exported, open_exported
from px_seg.deploy.exporting import check_formats, export_missing, exported_scores
from px_seg.deploy.predicting import Views, predict
from px_seg.deploy.runs import measure_missing, read_measured
from px_seg.pruning.compaction.shrinking import Compaction, compact, shrink

__all__ = [
    "Compaction",
    "Exported",
    "Views",
    "check_formats",
    "compact",
    "export_missing",
    "exported_scores",
    "measure_missing",
    "open_exported",
    "predict",
    "read_measured",
    "shrink",
]
