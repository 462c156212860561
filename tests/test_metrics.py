"""Scores from confusion matrices, and how they are written."""

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from px_seg.metrics import Score, classification_scores, confusion_of, segmentation_scores


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
