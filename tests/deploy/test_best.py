"""The network of the best epoch where a run's is asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import make_voc
from PIL import Image

from px_seg import load_model
from px_seg.commands import main
from px_seg.deploy.card import export_folder, read_card, run_of
from px_seg.models import save_model
from px_seg.run.folder import RunFolder


@pytest.fixture
def kept(finished: Path) -> Path:
    """A finished run with another network as that of its best epoch, and nothing exported."""
    run = finished
    for folder in (run / "best", run / "export"):
        shutil.rmtree(folder, ignore_errors=True)
    model = load_model(run)
    with torch.no_grad():
        for parameter in model.segmentation_head.parameters():
            parameter.neg_()
    save_model(model, run / "best")
    for file in (run / "model").glob("albumentations*"):
        shutil.copy(file, run / "best")
    return run


def test_it_is_of_the_run_and_has_its_own_weights(kept: Path, tmp_path: Path) -> None:
    assert run_of(kept / "best") == kept
    assert run_of(kept) == kept
    assert read_card(kept / "best") == read_card(kept)
    scores = {}
    for name in (".", "best"):
        main(["evaluate", str(kept / name), "--output", str(tmp_path / "scores.json")])
        (scores[name],) = json.loads((tmp_path / "scores.json").read_text()).values()
    assert scores["."]["miou"] == json.loads((kept / "results.json").read_text())["miou"]
    assert scores["best"]["miou"] != scores["."]["miou"]
    assert scores["best"]["bytes"] == (kept / "best" / "model.safetensors").stat().st_size


def test_it_labels_images_and_is_exported_beside_the_run(kept: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    labels = []
    for name in (".", "best"):
        with pytest.raises(SystemExit, match=r"^(0|False)$"):
            main(["predict", str(kept / name), str(tmp_path / "a.png"), "--out", str(tmp_path / "labels" / name)])
        labels.append(np.array(Image.open(tmp_path / "labels" / name / "a.png")))
    assert (labels[0] != labels[1]).any()
    main(["export", str(kept / "best"), "--no_evaluation"])
    main(["export", str(kept / "best"), "--no_evaluation", "--no_compact"])
    sizes = [(kept / f"export.best{ending}" / "model.onnx").stat().st_size for ending in ("", ".whole")]
    assert sizes[0] < sizes[1]
    assert not (kept / "export").exists()
    assert export_folder(kept / "best") == kept / "export.best"
    RunFolder(kept).clear()
    assert not list(kept.glob("export*"))


def test_the_training_images_need_not_be_there(kept: Path, tmp_path: Path, capsys) -> None:
    other = make_voc(tmp_path / "other", train=2, val=5)
    tree = other / "VOCdevkit" / "VOC2012"
    (tree / "ImageSets" / "Segmentation" / "train.txt").unlink()
    for file in tree.glob("*/train_*"):
        file.unlink()
    main(["evaluate", str(kept), "--data.root", str(other)])
    said = capsys.readouterr().out
    assert "are training images as well" not in said
    assert "mIoU" in said
