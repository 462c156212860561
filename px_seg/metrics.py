"""Metrics, read off confusion matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SegmentationScores:
    """`miou`: mean of `class_iou` over the classes that occur. `pixel_accuracy`: share of right pixels.

    `class_iou` has None for a class that neither truth nor prediction contains.
    """

    miou: float
    pixel_accuracy: float
    class_iou: tuple[float | None, ...]


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    """Scores from a (C, C) count of pixels, rows by truth and columns by prediction.

    IoU of a class is intersection over union of truth and prediction; the mean is over the
    classes whose union is not empty, background included (Everingham et al., 2010).
    Raises ValueError when nothing was counted.
    """
    counts = confusion.cpu().to(torch.float64)
    total = counts.sum().item()
    if not total:
        raise ValueError("no labelled pixel was evaluated")
    hits = counts.diagonal()
    unions = counts.sum(0) + counts.sum(1) - hits
    iou = tuple((hit / union if union else None) for hit, union in zip(hits.tolist(), unions.tolist(), strict=True))
    present = [value for value in iou if value is not None]
    return SegmentationScores(sum(present) / len(present), hits.sum().item() / total, iou)


@dataclass(frozen=True)
class ClassificationScores:
    """`accuracy`: share of right images. `class_accuracy`: the same of each class, None for one without images."""

    accuracy: float
    class_accuracy: tuple[float | None, ...]


def classification_scores(confusion: Tensor) -> ClassificationScores:
    """Scores from a (C, C) count of images, rows by truth and columns by prediction.

    Raises ValueError when nothing was counted.
    """
    counts = confusion.cpu().to(torch.float64)
    total = counts.sum().item()
    if not total:
        raise ValueError("no image was evaluated")
    shares = zip(counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
    by_class = tuple((hits / images if images else None) for hits, images in shares)
    return ClassificationScores(counts.diagonal().sum().item() / total, by_class)
