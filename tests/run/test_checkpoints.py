"""Runs that stop, and what they go on from."""

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from helpers.runs import go, lines
from helpers.stopped import Interrupted, Unfinished

from px_seg import InputError, Masks


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--epochs", 4)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--output_dir", tmp_path / "cut", task=Interrupted)
    with pytest.raises(InputError, match="another configuration \\(differs in sparsity"):
        go(*flags, "--sparsity", 0.1, "--resume", "--output_dir", tmp_path / "cut")
    resumed = go(*flags, "--resume", "--output_dir", tmp_path / "cut")
    assert resumed["miou"] == whole["miou"]
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    with pytest.raises(InputError, match="finished"):
        go(*flags, "--resume", "--output_dir", tmp_path / "cut")


def test_a_run_stopped_at_its_very_end_can_be_finished(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    logged = lines(tmp_path / "out")[-1]
    # Killed in the middle of replacing the checkpoint: the former one is still there.
    (tmp_path / "out" / "checkpoint").rename(tmp_path / "out" / "checkpoint.old")
    results = go(*flags, "--resume", "--threads", 1)
    assert results["miou"] == pytest.approx(logged["miou"], abs=1e-3)
    assert len(lines(tmp_path / "out")) == 1


def test_a_run_of_whole_filters_goes_on_from_its_masks(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "magnitude", "--granularity", "filter", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    masks = Masks.load(tmp_path / "out" / "masks.safetensors")
    assert masks.kept < round((1 - masks.provenance.sparsity) * masks.total)
    results = go(*flags, "--resume")
    assert results["granularity"] == "filter"
    assert Masks.load(tmp_path / "out" / "masks.safetensors") == masks


def test_what_is_damaged_is_not_resumed(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    flags = ("--config", tiny, "--method", "random", "--output_dir", out, "--resume")
    with pytest.raises(KeyboardInterrupt):
        go(*flags[:-1], task=Unfinished)
    (out / "checkpoint" / "optimizer.bin").write_bytes(b"cut off")
    with pytest.raises(InputError, match="checkpoint is damaged: delete it"):
        go(*flags)
    (out / "checkpoint" / "progress.json").write_text('{"epo')
    with pytest.raises(InputError, match="checkpoint is damaged: delete it"):
        go(*flags)
    masks = Masks.load(out / "masks.safetensors")
    Masks({name: torch.ones_like(mask) for name, mask in masks.items()}, masks.provenance).save(
        out / "masks.safetensors"
    )
    with pytest.raises(InputError, match="damaged or belongs to another run: delete it"):
        go(*flags)
    (out / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config.yaml is damaged: delete the folder, or start again with --overwrite"):
        go(*flags)


def test_half_a_line_of_metrics_is_dropped(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    go(*flags, "--resume")
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [1]


def test_a_run_is_not_resumed_under_another_launch(tiny, tmp_path, monkeypatch) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(InputError, match="gradient_accumulation_steps 1, but this launch has 2"):
        go(*flags, "--resume")


def test_a_run_is_not_resumed_with_other_settings_of_its_method(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "grasp", "--epochs", 0, "--output_dir", tmp_path / "out")
    go(*flags, "--pruning.settings.temperature", 100)
    (tmp_path / "out" / "results.json").unlink()
    with pytest.raises(InputError, match=r"differs in pruning\.settings\.temperature"):
        go(*flags, "--resume")


def test_a_run_resumed_before_its_first_checkpoint_logs_its_start_once(tiny, tmp_path) -> None:
    flags = (
        "--config",
        tiny,
        "--method",
        "random",
        "--evaluate_first",
        "--epochs",
        4,
        "--output_dir",
        tmp_path / "out",
    )
    # Two updates an epoch: the sixth is reached in the third, or at once where it is counted from five.
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=type("AtOnce", (Interrupted,), {"steps": 5}))
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [0]
    go(*flags, "--resume")
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [0, 1, 2, 3, 4]


def test_a_run_of_an_earlier_version_is_one_with_the_defaults_of_what_came_later(tiny, tmp_path) -> None:
    flags, out = (
        ("--config", tiny, "--method", "random", "--resume", "--output_dir", tmp_path / "out"),
        tmp_path / "out",
    )
    with pytest.raises(KeyboardInterrupt):
        go(*flags[:4], *flags[5:], task=Unfinished)
    written = yaml.safe_load((out / "config.yaml").read_text())
    (out / "config.yaml").write_text(yaml.safe_dump({key: written[key] for key in written if key != "compact"}))
    with pytest.raises(InputError, match=r"another configuration \(differs in compact\)"):
        go(*flags, "--compact")
    assert go(*flags)["compact"] is False
