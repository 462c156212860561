"""A finished run and what was exported of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.runs import go, make_voc, tiny_segmentation

from px_seg.commands import main


@pytest.fixture
def finished(once: Callable[[str, Callable[[Path], object]], Path], tmp_path: Path) -> Path:
    """A finished run on images of several sizes, exported in all formats; a copy that is the test's own."""

    def make(folder: Path) -> None:
        config = tiny_segmentation(folder / "tiny.yaml", encoder="tu-test_resnet")
        root = make_voc(folder / "data", train=80)
        voc = ("--data.name", "voc2012", "--data.root", root, "--data.evaluation", "whole", "--data.workers", 0)
        settings = ("--sparsity", 0.95, "--method", "px_conserved", "--granularity", "filter", "--rounds", 3)
        rates = ("--epochs", 12, "--optimizer.backbone_lr", 0.03, "--optimizer.head_lr", 0.03)
        go("--config", config, *voc, *settings, *rates, "--output_dir", folder / "run")
        main(["export", str(folder / "run"), "--format", "onnx,openvino,int8", "--calibration", "6"])

    made = once("exported", make)
    shutil.copytree(made / "run", tmp_path / "run")
    # The run says where its images are, which is with the original.
    return tmp_path / "run"
