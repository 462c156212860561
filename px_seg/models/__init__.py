"""Networks built around one backbone, and the weights a backbone starts from."""

from px_seg.models.segmenter import ATROUS_RATES, build_segmenter, check_segmenter
from px_seg.models.weights import load_encoder

__all__ = ["ATROUS_RATES", "build_segmenter", "check_segmenter", "load_encoder"]
