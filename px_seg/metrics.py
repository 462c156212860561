"""Scores: what they are called and how they are written, and metrics read off confusion matrices."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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


CONFUSION = "confusion"
"""What tasks call their counts by true and predicted class among their scores."""


def without_counts(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores alone: counts of a thousand classes would be most of a file."""
    return {key: value for key, value in scores.items() if key != CONFUSION}


def confusion_of(truth: Tensor, predicted: Tensor, classes: int, ignore: int | None = None) -> Tensor:
    """How often each class is predicted as each: (C, C) int64, rows by truth and columns by prediction.

    `truth` and `predicted` are int64 classes of one shape; where `truth` is `ignore` nothing is counted.
    """
    if ignore is not None:
        known = truth != ignore
        truth, predicted = truth[known], predicted[known]
    # Without weights a count is the same in whatever order it is made.
    return torch.bincount(classes * truth.flatten() + predicted.flatten(), minlength=classes**2).view(classes, classes)


@dataclass(frozen=True)
class SegmentationScores:
    """`miou`: mean of `class_iou` over the classes that occur. `pixel_accuracy`: share of correct pixels.

    By class, None where it cannot be said: `class_iou` for one that neither truth nor prediction contains, `class_f1`
    (Dice) for the same; `class_precision` for one that is not predicted, `class_recall` for one that does not occur.
    """

    miou: float
    pixel_accuracy: float
    class_iou: tuple[float | None, ...]
    class_precision: tuple[float | None, ...]
    class_recall: tuple[float | None, ...]
    class_f1: tuple[float | None, ...]


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
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = _shares(hits, true + predicted - hits)
    present = [value for value in iou if value is not None]
    return SegmentationScores(
        sum(present) / len(present),
        hits.sum().item() / total,
        iou,
        class_precision=_shares(hits, predicted),
        class_recall=_shares(hits, true),
        class_f1=_shares(2 * hits, true + predicted),
    )


NEAR = 0.02
"""Of an image's diagonal, the distance from its class's contour up to which a pixel is part of the boundary."""


def boundary_counts(truth: Tensor, predicted: Tensor, classes: int, ignore: int) -> Tensor:
    """Pixels near contours, by class: (3, C) int64, of truth and prediction both, of truth, and of the prediction.

    `truth` and `predicted` are int64 labels (N, H, W). A pixel is near where, within `NEAR` of the diagonal and one
    pixel at least, in rows and columns, there is another class, or the image ends. Where `truth` is `ignore` neither
    has a label.
    """
    height, width = truth.shape[-2:]
    reach = max(1, round(NEAR * math.hypot(height, width)))
    known = truth != ignore
    predicted = predicted.where(known, truth)
    same = truth == predicted
    near, near_predicted = (_near_another(labels, reach) & known for labels in (truth, predicted))
    return torch.stack(
        [
            torch.bincount(labels[chosen], minlength=classes)
            for labels, chosen in ((truth, near & near_predicted & same), (truth, near), (predicted, near_predicted))
        ]
    )


def _near_another(labels: Tensor, reach: int) -> Tensor:
    """Where the square of 2 `reach` + 1 pixels around a pixel has another label than its own, or ends the image."""
    values = F.pad(labels.to(torch.int16), [reach] * 4, value=-1)
    highest, lowest = values, values
    for dim in (-2, -1):
        highest = _folded(torch.maximum, highest, 2 * reach + 1, dim)
        lowest = _folded(torch.minimum, lowest, 2 * reach + 1, dim)
    return highest != lowest


def _folded(fold: Callable[[Tensor, Tensor], Tensor], values: Tensor, window: int, dim: int) -> Tensor:
    """A minimum or maximum over every `window` of consecutive values, by windows that double."""
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        length = values.shape[dim] - step
        values = fold(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        covered += step
    return values


def boundary_iou(counts: Tensor) -> tuple[float | None, ...]:
    """Boundary IoU by class (Cheng et al., CVPR 2021, eq. 1) from summed `boundary_counts`; None for one without."""
    both, true, predicted = counts.cpu().to(torch.float64)
    return _shares(both, true + predicted - both)


def _shares(parts: Tensor, wholes: Tensor) -> tuple[float | None, ...]:
    """One by one; None of nothing."""
    return tuple((part / whole if whole else None) for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True))


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
    return ClassificationScores(counts.diagonal().sum().item() / total, _shares(counts.diagonal(), counts.sum(1)))
