"""Scores: what they are called and how they are written, and metrics read off confusion matrices."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """One number by which a trained network is judged; by default a share in [0, 1], written in %.

    Args:
        name: key in results.json
        label: name shown to people
        higher_is_better: whether a network with more of it is the better one
        unit: in which people read it
        scale: how many of that unit a 1 in results.json is
        digits: decimal places
        limits: of an axis, in the unit of results.json; None where it has no natural ones
    """

    name: str
    label: str
    higher_is_better: bool = True
    unit: str = "%"
    scale: float = 100.0
    digits: int = 2
    limits: tuple[float, float] | None = (0.0, 1.0)

    @property
    def title(self) -> str:
        """The label with its unit, for an axis: mIoU (%)."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def in_units(self, value: float) -> float:
        """The value in the unit that people read it in."""
        return self.scale * value

    def number(self, value: float) -> str:
        """The value without its unit, for a table whose caption says it."""
        return f"{self.in_units(value):.{self.digits}f}"

    def text(self, value: float) -> str:
        """The value with its unit: 58.50%, or 1.25 m."""
        return f"{self.number(value)}{'' if self.unit in ('', '%') else ' '}{self.unit}"

    def change(self, value: float) -> str:
        """A difference without its unit, with a sign that does not break a line."""
        return f"{self.in_units(value):+.{self.digits}f}".replace("-", "\N{MINUS SIGN}")

    def best(self, values: Iterable[float]) -> float:
        """The best of several values."""
        return max(values) if self.higher_is_better else min(values)


@dataclass(frozen=True)
class SegmentationScores:
    """`miou`: mean of `class_iou` over the classes that occur. `pixel_accuracy`: share of correct pixels.

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
    """`accuracy`: share of correct images. `class_accuracy`: the same for each class, None for one without images."""

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
