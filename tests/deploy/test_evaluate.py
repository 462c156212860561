"""A finished network on other images than its own, and in several views."""

import json
from pathlib import Path

import pytest
import torch
from helpers.runs import make_voc, parsed

from px_seg import load_model
from px_seg.commands import main
from px_seg.flags import run_flags
from px_seg.metrics import confusion_of
from px_seg.models import Views, viewed_scores
from px_seg.tasks import Segmentation


def scores(tmp_path: Path, *words: object) -> dict:
    output = tmp_path / "scores.json"
    main(["evaluate", *map(str, words), "--output", str(output)])
    (found,) = json.loads(output.read_text()).values()
    return found


def test_images_and_views_are_those_asked_for(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    own = scores(tmp_path, finished)
    assert own["miou"] == results["miou"]
    seen = scores(tmp_path, "--data.val_split", "train", finished)
    assert seen["miou"] != own["miou"]
    mirrored = scores(tmp_path, "--evaluation.flip", finished)
    assert mirrored["miou"] != own["miou"]
    # Other images of the same kind, elsewhere.
    other = make_voc(tmp_path / "other", train=2, val=7)
    root = ("--data.root", other)
    assert scores(tmp_path, finished, *root)["miou"] != own["miou"]
    seen = scores(tmp_path, finished, *root, "--evaluation.window=48", "--evaluation.scales", "[1,1.5]")
    flags = ("--data.name", "voc2012", *root, "--data.evaluation", "whole", "--encoder", "tu-test_resnet")
    task, model = Segmentation(parsed(*flags, "--weights", "none")), load_model(finished)
    counts = torch.zeros(21, 21, dtype=torch.int64)
    for index in range(7):
        image, labels = task.val[index, 0]
        with torch.no_grad():
            classes = viewed_scores(model, image[None], 16, Views(False, (1.0, 1.5), 48)).argmax(1)[0]
        counts += confusion_of(labels, classes, 21, 255)
    assert seen["pixel_accuracy"] == pytest.approx((counts.trace() / counts.sum()).item())


def test_the_runs_flags_are_told_from_the_commands() -> None:
    words = ["--evaluation.flip", "RUN", "--data.root", "a b", "--model", "x", "--data.mostly_void", "false"]
    words += ["--data.val_split=test", "--device", "cpu", "--data.", "--datum.root", "y"]
    own, flags = run_flags(words, ("data", "evaluation"))
    assert own == ["RUN", "--model", "x", "--device", "cpu", "--datum.root", "y"]
    assert flags == [
        *("--evaluation.flip", "--data.root", "a b", "--data.mostly_void", "false", "--data.val_split=test"),
        "--data.",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data.rot", "x"), "a run of the task seg has no data.rot: it has data.name, data.size, "),
        (("--optimizer.name", "sgd"), "unrecognized arguments: --optimizer.name sgd"),
        (("--data.val_split", "nowhere"), "there is no split 'nowhere'"),
        (("--data.name", "synthetic"), "have other classes than those of the run"),
        (("--evaluation.scales", "[9]"), "evaluation.scales must be factors from 1/8 to 8"),
        (("--evaluation.window", "many"), "evaluation.window"),
    ],
)
def test_what_cannot_be_is_one_line(finished: Path, capsys, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(finished), *words])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
