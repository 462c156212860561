"""What can be said about a network and its masks without training them."""

from px_seg.analysis.dense_comparison import Preservation, preservation
from px_seg.analysis.layer_collapse import Collapse, collapse
from px_seg.analysis.mask_agreement import agreement
from px_seg.analysis.trace import ntk_trace, ntk_trace_bound

__all__ = ["Collapse", "Preservation", "agreement", "collapse", "ntk_trace", "ntk_trace_bound", "preservation"]
