"""Scores from confusion matrices, and how they are written."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from px_seg.metrics import (
    Score,
    boundary_counts,
    boundary_iou,
    classification_scores,
    confusion_of,
    segmentation_scores,
)


def test_a_case_computed_by_hand() -> None:
    """Truth 0 0 1 1 / 2 2 255 0 against prediction 0 1 1 1 / 0 2 2 0, with a class 3 nowhere.

    Class 0: intersection 2 (of 3 true, 3 predicted, one of them on truth 2), union 4.
    Class 1: intersection 2, union 3. Class 2: intersection 1, union 2. Right: 5 of 7.
    """
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 0]])
    predicted = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 0]])
    metric = MulticlassConfusionMatrix(4, ignore_index=255)
    metric.update(predicted, truth)
    scores = segmentation_scores(metric.compute())
    assert scores.class_iou == (2 / 4, 2 / 3, 1 / 2, None)
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.class_precision == (2 / 3, 2 / 3, 1, None)
    assert scores.class_recall == (2 / 3, 1, 1 / 2, None)
    assert scores.class_f1 == (2 / 3, 4 / 5, 2 / 3, None)


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    scores = segmentation_scores(torch.tensor([[3, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert scores.class_precision == (3 / 5, None, None)
    assert scores.class_recall == (1, 0, None)
    assert scores.class_f1 == (6 / 8, 0, None)


def test_agreement_with_torchmetrics(generator) -> None:
    truth = torch.randint(0, 5, (3, 20, 20), generator=generator)
    predicted = torch.randint(0, 5, (3, 20, 20), generator=generator)
    truth[0, :3] = 255
    jaccard = MulticlassJaccardIndex(5, ignore_index=255)(predicted, truth)
    confusion = MulticlassConfusionMatrix(5, ignore_index=255)(predicted, truth)
    scores = segmentation_scores(confusion)
    assert scores.miou == pytest.approx(jaccard.item(), abs=1e-6)
    known = truth != 255
    precision, recall, f1, _ = precision_recall_fscore_support(truth[known], predicted[known])
    for own, expected in ((scores.class_precision, precision), (scores.class_recall, recall), (scores.class_f1, f1)):
        assert own == pytest.approx(expected.tolist())


def test_counts_are_torchmetrics(generator) -> None:
    truth = torch.randint(0, 5, (3, 20, 20), generator=generator)
    predicted = torch.randint(0, 5, (3, 20, 20), generator=generator)
    truth[0, :3] = 255
    expected = MulticlassConfusionMatrix(5, ignore_index=255)(predicted, truth)
    assert torch.equal(confusion_of(truth, predicted, 5, 255), expected)
    assert torch.equal(confusion_of(truth[1], predicted[1], 5), MulticlassConfusionMatrix(5)(predicted[1], truth[1]))


def test_nothing_labelled_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labelled pixel"):
        segmentation_scores(torch.zeros(3, 3))


MIOU = Score("miou", "mIoU")
RMSE = Score("rmse", "RMSE", higher_is_better=False, unit="m", scale=1.0, digits=3, limits=None)
PLAIN = Score("delta", "delta", unit="", scale=1.0, digits=1)


def test_a_score_is_written_in_its_unit() -> None:
    assert (MIOU.text(0.58504), MIOU.number(0.58504), MIOU.title) == ("58.50%", "58.50", "mIoU (%)")
    assert (RMSE.text(1.25), RMSE.number(1.25), RMSE.title) == ("1.250 m", "1.250", "RMSE (m)")
    assert (PLAIN.text(2), PLAIN.title) == ("2.0", "delta")


def test_a_change_has_a_sign_that_breaks_no_line() -> None:
    assert (MIOU.change(0.0123), MIOU.change(-0.0123)) == ("+1.23", "\N{MINUS SIGN}1.23")


def test_the_best_score_is_the_highest_or_the_lowest() -> None:
    assert MIOU.best([0.1, 0.3, 0.2]) == 0.3
    assert RMSE.best(iter([1.0, 0.3, 0.2])) == 0.2


def test_scores_are_read_off_the_confusion_matrix() -> None:
    scores = classification_scores(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 4]]))
    assert scores.accuracy == 0.7
    assert scores.class_accuracy == (0.75, None, 4 / 6)
    with pytest.raises(ValueError, match="no image"):
        classification_scores(torch.zeros(2, 2))


def by_erosion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> list[float | None]:
    """Boundary IoU class by class, as its authors' program finds boundaries: what erosion takes away, borders too."""
    both, whole = np.zeros(classes), np.zeros(classes)
    for labels, found in zip(truth, predicted, strict=True):
        steps = max(1, round(0.02 * (labels.shape[0] ** 2 + labels.shape[1] ** 2) ** 0.5))
        for label in range(classes):
            near = []
            for mask in ((labels == label), (found == label) & (labels != 255)):
                padded = np.pad(mask.astype(np.uint8), 1)
                near.append(mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1] == 0))
            both[label] += (near[0] & near[1]).sum()
            whole[label] += (near[0] | near[1]).sum()
    return [one / of if of else None for one, of in zip(both, whole, strict=True)]


@pytest.mark.parametrize("size", [(20, 30), (160, 120), (75, 301)])
def test_boundary_iou_is_that_of_eroded_masks(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 4, (3, 5, 5)), np.ones((size[0] // 5, -(-size[1] // 5)), int))[:, :, : size[1]]
    predicted = np.roll(truth, (1, 2), (1, 2))
    predicted[:, :5, :9] = 5
    truth[:, :, 8:10] = 255
    counts = boundary_counts(torch.from_numpy(truth), torch.from_numpy(predicted), 7, 255)
    assert counts.shape == (3, 7)
    assert boundary_iou(counts) == pytest.approx(by_erosion(truth, predicted, 7), abs=1e-12)
    assert boundary_iou(counts)[6] is None


def test_boundary_iou_sees_what_iou_hardly_does() -> None:
    """A large square, found a pixel too small on every side; found exactly, it has 1, whatever void holds."""
    truth = torch.zeros(1, 200, 200, dtype=torch.int64)
    truth[:, 20:180, 20:180] = 1
    smaller = torch.zeros_like(truth)
    smaller[:, 21:179, 21:179] = 1
    reach = round(0.02 * 200 * 2**0.5)
    near = 160**2 - (160 - 2 * reach) ** 2, 158**2 - (158 - 2 * reach) ** 2
    shared = 158**2 - (160 - 2 * reach) ** 2
    found = boundary_iou(boundary_counts(truth, smaller, 2, 255))
    assert found[1] == pytest.approx(shared / (sum(near) - shared))
    assert segmentation_scores(confusion_of(truth, smaller, 2)).class_iou[1] == pytest.approx(158**2 / 160**2)
    assert found[1] < 0.72
    truth[:, 18:22] = 255
    filled = truth.clone()
    filled[truth == 255] = torch.randint(0, 2, (800,), generator=torch.Generator().manual_seed(0))
    assert boundary_iou(boundary_counts(truth, filled, 2, 255)) == (1, 1)
