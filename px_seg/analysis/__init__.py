"""What can be said about a network and its masks without training them."""

from px_seg.analysis.dense_comparison import Preservation, preservation
from px_seg.analysis.layer_collapse import Collapse, collapse
from px_seg.analysis.layer_widths import LayerWidth, Widths, widths
from px_seg.analysis.mask_agreement import agreement
from px_seg.analysis.path_counts import EffectivePaths, effective_paths
from px_seg.analysis.path_flow import Flow, Split, flow
from px_seg.analysis.spectrum import (
    LargestEigenvalue,
    SpectrumFacts,
    kernel_alignment,
    largest_eigenvalue,
    ntk_spectrum,
    spectral_distance,
    spectrum_facts,
)
from px_seg.analysis.tangent_kernel import TraceEstimate, estimated_trace, ntk_kernel
from px_seg.analysis.trace import ntk_trace, ntk_trace_bound

__all__ = [
    "Collapse",
    "EffectivePaths",
    "Flow",
    "LargestEigenvalue",
    "LayerWidth",
    "Preservation",
    "SpectrumFacts",
    "Split",
    "TraceEstimate",
    "Widths",
    "agreement",
    "collapse",
    "effective_paths",
    "estimated_trace",
    "flow",
    "kernel_alignment",
    "largest_eigenvalue",
    "ntk_kernel",
    "ntk_spectrum",
    "ntk_trace",
    "ntk_trace_bound",
    "preservation",
    "spectral_distance",
    "spectrum_facts",
    "widths",
]
