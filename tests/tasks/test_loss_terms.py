"""Losses as they are asked for, weights of classes, and what is refused."""

import numpy as np
import pytest
import torch
from helpers.runs import classify, go, parsed

from px_seg import InputError, Masks
from px_seg.tasks import Classification, Segmentation
from px_seg.tasks.loss_terms import Term, terms_of
from px_seg.tasks.segmentation_losses import SEGMENTATION_LOSSES


def test_a_sum_is_read_with_factors_and_settings() -> None:
    text = " cross_entropy( label_smoothing=0.1 , hardest=1e-2)+ 5e-1*tversky(alpha=0.3)+1e+2*dice()"
    plain = {"alpha": 0.3, "beta": 0.5, "gamma": 1.0}
    assert terms_of(text, SEGMENTATION_LOSSES) == (
        Term("cross_entropy", 1.0, {"label_smoothing": 0.1, "hardest": 0.01}),
        Term("tversky", 0.5, plain),
        Term("dice", 100.0, {}),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no loss '': choose one of cross_entropy, dice, jaccard, lovasz, focal, tversky, or a sum"),
        ("dise", r"there is no loss 'dise': .* such as cross_entropy\+0.5\*dice"),
        ("cross_entropy+", "there is no loss ''"),
        ("dice dice", "there is no loss 'dice dice'"),
        ("squared", "there is no loss 'squared'"),
        ("x*dice", "'x' in the loss 'x\\*dice' is no number"),
        ("0*dice", r"the factor of dice in the loss 0\*dice must be above 0, got 0"),
        ("nan*dice", "must be above 0, got nan"),
        ("inf*dice", "must be above 0, got inf"),
        ("dice(smooth=1)", "'smooth=1' is no setting of the loss dice: it has none"),
        ("focal(2)", "'2' is no setting of the loss focal: its settings are gamma, each written as KEY=NUMBER"),
        ("focal(gamma=two)", "'two' in the loss 'gamma=two' is no number"),
        ("focal(gamma=0.5)", "gamma of the loss focal must be at least 1 and at most 100, got 0.5"),
        ("focal(gamma=inf)", "gamma of the loss focal must be at least 1 and at most 100, got inf"),
        ("tversky(alpha=0)", "alpha of the loss tversky must be above 0 and at most 1, got 0"),
        ("tversky(alpha=0.1,alpha=0.2)", "the loss tversky has alpha twice: keep one"),
        ("cross_entropy(hardest=0)", "hardest of the loss cross_entropy must be above 0 and at most 1, got 0"),
        ("cross_entropy(label_smoothing=nan)", "must be at least 0 and at most 1, got nan"),
    ],
)
def test_what_is_no_loss_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        terms_of(text, SEGMENTATION_LOSSES)


def test_bad_losses_and_weights_stop_a_run_before_its_data_is_read(tiny, small, tmp_path) -> None:
    for flags, message in (
        (("--loss", "dise"), "there is no loss 'dise'"),
        (("--class_weights", "even"), "class_weights must be balanced, or a list of numbers, one a class: got 'even'"),
        (("--class_weights", "[1,2]"), "class_weights has 2 numbers for 7 classes: give one a class"),
        (("--class_weights", "[0,0,0,0,0,0,0]"), "class_weights must be at least 0, and not all 0"),
        (("--class_weights", "[-1,0,0,0,0,0,1]"), "class_weights must be at least 0"),
        (("--class_weights", "[.nan,0,0,0,0,0,1]"), "class_weights must be finite"),
        (
            ("--class_weights", "balanced", "--loss", "dice+focal"),
            r"class_weights are for cross_entropy, which the loss dice\+focal has not: leave them out",
        ),
    ):
        with pytest.raises(InputError, match=message):
            go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    with pytest.raises(InputError, match="there is no loss 'dice': choose one of cross_entropy, squared"):
        classify("--config", small, "--loss", "dice", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_balanced_weights_are_those_of_the_training_masks(tiny) -> None:
    """n / (C n_c) of the classes that occur; the classes of the few images here do not all."""
    task = Segmentation(parsed("--config", tiny, "--class_weights", "balanced"))
    masks = np.stack([task.train.data[index].mask for index in range(len(task.train))])
    counts = np.array([(masks == label).sum() for label in range(len(task.classes))])
    occur = counts > 0
    expected = np.where(occur, counts.sum() / (occur.sum() * np.maximum(counts, 1)), 0)
    labels = torch.arange(len(task.classes))[None, None]
    found = [task.labelled(labels[..., label : label + 1]).item() for label in range(len(task.classes))]
    assert found == pytest.approx(expected.tolist())
    # All classes that occur weigh the same.
    assert task.labelled(torch.from_numpy(masks).long()).item() == pytest.approx((masks != 255).sum(), rel=1e-5)


def test_weights_and_smoothing_of_a_classification_are_torchs(small) -> None:
    weights = [0.5 + label / 7 for label in range(15)]
    flags = ("--loss", "cross_entropy(label_smoothing=0.2)", "--class_weights", weights)
    task = Classification(parsed("--config", small, *flags, task=Classification))
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(9, 15, generator=draws), torch.randint(15, (9,), generator=draws)
    expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor(weights), label_smoothing=0.2)
    torch.testing.assert_close(task.loss(logits, labels), expected)
    assert task.labelled(labels).item() == pytest.approx(sum(weights[label] for label in labels))


def test_a_run_of_all_losses_together_keeps_its_masks(tiny, tmp_path) -> None:
    loss = "cross_entropy(label_smoothing=0.1,hardest=0.5)+dice+jaccard+lovasz+focal+tversky(alpha=0.3,beta=0.7)"
    flags = ("--loss", loss, "--class_weights", "balanced", "--sparsity", 0.5, "--epochs", 2)
    results = go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    assert (results["loss"], results["class_weights"]) == (loss, "balanced")
    assert results["backbone_sparsity"] == Masks.load(tmp_path / "out" / "masks.safetensors").sparsity
