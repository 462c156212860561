"""What is the segmentation task's own: its loss, its predictions, its data."""

import math

import numpy as np
import pytest
import torch
from helpers.runs import CONFIGS, go, parsed
from torch import nn

from px_seg import InputError, load_model
from px_seg.models import Views, viewed_scores
from px_seg.run.folder import RunFolder
from px_seg.tasks import Segmentation


@pytest.mark.slow
def test_a_voc_tree_runs_in_both_evaluations(voc, tiny, tmp_path) -> None:
    flags = ("--config", CONFIGS / "seg" / "voc2012.yaml", "--data.root", voc, "--data.workers", 1, "--weights", "none")
    flags += ("--encoder", "resnet18", "--data.size", 49, "--rounds", 1, "--pruning.batches", 1, "--epochs", 1)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    assert whole["data"] | {"root": ""} == {
        **{"name": "voc2012", "root": "", "classes": 21, "train": 8, "val": 4},
        **{"size": 49, "evaluation": "whole"},
    }
    crop = go(*flags, "--data.evaluation", "centre_crop", "--epochs", 0, "--output_dir", tmp_path / "crop")
    assert math.isfinite(crop["miou"])


def test_the_trained_network_is_evaluated_on_further_lists(voc, tmp_path) -> None:
    lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    names = (lists / "val.txt").read_text().split()
    for split, own in (("same", names), ("half", names[:2])):
        (lists / f"{split}.txt").write_text("\n".join(own) + "\n")
    flags = ("--config", CONFIGS / "seg" / "voc2012.yaml", "--data.root", voc, "--data.workers", 0, "--weights", "none")
    flags += ("--encoder", "resnet18", "--data.size", 48, "--sparsity", 0, "--epochs", 0)
    results = go(*flags, "--data.also", "[same,half]", "--output_dir", tmp_path / "out")
    assert list(results["also"]) == ["same", "half"]
    pictures = {path.name for path in (tmp_path / "out").glob("samples*.png")}
    assert pictures == {"samples.png", "samples_same.png", "samples_half.png"}
    counted = (tmp_path / "out" / "confusion.csv").read_text()
    RunFolder(tmp_path / "out").clear()
    assert not list((tmp_path / "out").iterdir())
    keys = ("miou", "pixel_accuracy", "class_iou", "class_precision", "class_recall", "class_f1", "class_boundary_iou")
    assert results["also"]["same"] == {key: results[key] for key in keys}
    head, *rows = [line.split(",") for line in counted.splitlines()]
    assert head == ["true", *(row[0] for row in rows)]
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert counts.shape == (21, 21)
    assert counts.trace() / counts.sum() == pytest.approx(results["pixel_accuracy"])
    assert results["also"]["half"]["miou"] != results["miou"]
    for also, message in (
        ("[nowhere]", "there is no split 'nowhere'"),
        ("[half,half]", "data.also names half twice, or beside data.val_split"),
        ("[val]", "data.also names val twice, or beside data.val_split"),
    ):
        with pytest.raises(InputError, match=message):
            go(*flags, "--data.also", also, "--output_dir", tmp_path / "other")


def test_a_padded_image_is_cropped_back(voc) -> None:
    """The prediction of an image of odd size is the network's on the zero-padded one, where they overlap."""
    config = parsed("--config", CONFIGS / "seg" / "voc2012.yaml", "--data.root", voc)
    task = Segmentation(config)

    class Positions(nn.Module):
        def forward(self, x):
            assert x.shape[-2] % 8 == x.shape[-1] % 8 == 0
            rows = torch.arange(x.shape[-2]).view(1, 1, -1, 1).expand(1, 1, -1, x.shape[-1])
            return torch.cat([torch.full_like(rows, 50), rows], 1).float()

    predicted = task.predict(Positions(), torch.zeros(1, 3, 61, 37))
    assert predicted.shape == (1, 61, 37)
    assert (predicted[0, 51:] == 1).all()
    assert (predicted[0, :51] == 0).all()


def test_ignored_pixels_do_not_count_in_the_loss(tiny, generator) -> None:
    task = Segmentation(parsed("--config", str(tiny)))
    logits = torch.randn(2, 7, 4, 4, generator=generator)
    labels = torch.randint(0, 5, (2, 4, 4), generator=generator)
    labels[0] = 255
    expected = nn.functional.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(task.loss(logits, labels), expected)
    assert task.loss(logits, torch.full_like(labels, 255)) == 0


def test_a_run_is_evaluated_in_the_views_it_asks_for(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    views = ("--evaluation.flip", "--evaluation.scales", "[0.75,1,1.5]", "--evaluation.window", 24)
    results = go(*flags, *views)
    assert results["evaluation"] == {"flip": True, "scales": [0.75, 1, 1.5], "window": 24}
    task = Segmentation(parsed("--config", tiny, *views))
    model = load_model(tmp_path / "out")
    counts = torch.zeros(7, 7, dtype=torch.int64)
    for index in range(len(task.val)):
        image, labels = task.val[index, 0]
        with torch.no_grad():
            seen = viewed_scores(model, image[None], 16, Views(True, (0.75, 1, 1.5), 24)).argmax(1)[0]
        known = labels != 255
        counts += torch.bincount(7 * labels[known] + seen[known], minlength=49).view(7, 7)
    assert results["pixel_accuracy"] == pytest.approx((counts.trace() / counts.sum()).item())
    for more, message in (
        (("--evaluation.scales", "[]"), "evaluation.scales must be factors from 1/8 to 8, at least one, got"),
        (("--evaluation.scales", "[0]"), "evaluation.scales must be factors from 1/8 to 8"),
        (("--evaluation.window", 8), "evaluation.window must be at least 16 pixels, got 8"),
    ):
        with pytest.raises(InputError, match=message):
            go("--config", tiny, *more, "--output_dir", tmp_path / "bad")
