"""Whole runs, small: what they write, and that two processes come to the same."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.runs import TWO, go, lines, script
from safetensors.torch import load_file

from px_seg import Masks, prunable


def test_a_run_writes_what_the_contract_names(tiny_resnet18, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    results = go("--config", tiny_resnet18, "--sparsity", 0.9, "--tracker", "tensorboard", "--output_dir", out)
    written = {path.name for path in out.iterdir()}
    assert written >= {
        *("config.yaml", "results.json", "metrics.jsonl", "masks.safetensors", "model"),
        *("curves.png", "samples.png", "samples.npz", "masks.png", "confusion.png", "confusion.csv"),
    }
    assert "checkpoint" not in written
    assert list(out.rglob("events.out.tfevents*"))
    assert results == json.loads((out / "results.json").read_text())
    assert results["method"] == "px"
    assert set(results["seconds"]) == {"prune", "train", "evaluate"}
    assert results["class_iou"].keys() == set(lines(out)[-1]["class_iou"])
    assert results["miou"] == lines(out)[-1]["miou"]
    printed = capsys.readouterr().out
    for word in ("mIoU", "pixel accuracy", "striped disc", "backbone", "prune", str(out)):
        assert word in printed

    masks, model = Masks.load(out / "masks.safetensors"), smp.from_pretrained(str(out / "model"))
    assert list(masks) == list(prunable(model, "encoder"))
    assert masks.provenance.method == "px"
    assert masks.kept == round(0.1 * masks.total)
    assert results["backbone_sparsity"] == masks.sparsity
    weights = torch.cat([w.flatten() for w in prunable(model, None).values()])
    assert results["model_sparsity"] == pytest.approx((weights == 0).float().mean().item(), abs=1e-6)
    assert masks.revived(model.state_dict()) == {}

    # The configuration as written makes the same run again.
    again = go("--config", out / "config.yaml", "--tracker", "null", "--output_dir", tmp_path / "again")
    assert again["miou"] == results["miou"]
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_prune_and_evaluate_as_one_does(tiny, tmp_path) -> None:
    """Five validation images over two processes: without training the scores are the same."""
    flags = ("--config", tiny, "--sparsity", 0.9, "--epochs", 0)
    alone = go(*flags, "--output_dir", tmp_path / "alone")
    done = script(*flags, "--output_dir", tmp_path / "two", launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    shared = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (alone["processes"], shared["processes"]) == (1, 2)
    masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in ("alone", "two")]
    agreeing = sum(int((masks[0][name] == masks[1][name]).sum()) for name in masks[0])
    assert agreeing / masks[0].total > 0.9999
    assert shared["miou"] == pytest.approx(alone["miou"], abs=1e-4)
    assert shared["pixel_accuracy"] == pytest.approx(alone["pixel_accuracy"], abs=1e-4)
    # The epoch's line and the table, from the main process alone.
    assert done.stdout.count("mIoU") == 2


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_all_without_a_traceback(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = script("--output_dir", tmp_path, launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode != 0
    line = f"error: --output_dir {tmp_path} holds files that do not belong to a run: choose another folder"
    # torchrun ends the other process once one has ended, before it may have said so itself.
    said = {part for part in done.stderr.splitlines() if "error: --output_dir" in part}
    assert said
    assert said <= {line, f"[rank 1] {line}"}
    assert "pipeline.py" not in done.stderr
