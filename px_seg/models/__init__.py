"""Networks built around one backbone, and the weights a backbone starts from."""

from px_seg.models.classifier import Classifier, build_classifier
from px_seg.models.encoders import build_encoder, check_encoder, zero_scales
from px_seg.models.inference import COARSEST, LEAST, Views, least_side_of, stride_of, viewed_scores, whole_logits
from px_seg.models.normalisations import channels_of, normalisation_in, normalisation_of, tell_normalisation
from px_seg.models.saved import MODEL_FILES, built_as, is_compacted, load_model, model_folder, save_model, weights_in
from px_seg.models.segmenter import ARCHITECTURES, ATROUS_RATES, build_segmenter, check_segmenter, stride_for
from px_seg.models.weights import Loaded, check_weights, load_encoder

__all__ = [
    "ARCHITECTURES",
    "ATROUS_RATES",
    "COARSEST",
    "LEAST",
    "MODEL_FILES",
    "Classifier",
    "Loaded",
    "Views",
    "build_classifier",
    "build_encoder",
    "build_segmenter",
    "built_as",
    "channels_of",
    "check_encoder",
    "check_segmenter",
    "check_weights",
    "is_compacted",
    "least_side_of",
    "load_encoder",
    "load_model",
    "model_folder",
    "normalisation_in",
    "normalisation_of",
    "save_model",
    "stride_for",
    "stride_of",
    "tell_normalisation",
    "viewed_scores",
    "weights_in",
    "whole_logits",
    "zero_scales",
]
