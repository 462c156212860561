"""Runs that stop, and what they go on from."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.runs import go, lines, same_weights
from helpers.stopped import Interrupted, Unfinished
from safetensors import SafetensorError

from px_seg import InputError, Masks
from px_seg.run import checkpoint_files
from px_seg.run.checkpoints import Interval
from px_seg.run.folder import RunFolder
from px_seg.tasks import Segmentation


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
    results = go(*flags, "--resume", "--threads", 1)
    assert results["miou"] == logged["miou"]
    assert results["class_iou"] == logged["class_iou"]
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
    masks = Masks.load(out / "masks.safetensors")
    Masks({name: torch.ones_like(mask) for name, mask in masks.items()}, masks.provenance).save(
        out / "masks.safetensors"
    )
    with pytest.raises(InputError, match="damaged or belongs to another run: delete it"):
        go(*flags)
    (out / "begun.json").write_text("{")
    with pytest.raises(InputError, match=r"begun\.json is damaged, so nothing says that the data is still the same"):
        go(*flags)
    (out / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config.yaml is damaged: delete the folder, or start again with --overwrite"):
        go(*flags)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def break_progress(checkpoint: Path) -> None:
    progress = checkpoint / "progress.json"
    progress.write_text(progress.read_text().replace('"epoch": 2', '"epoch": 1'))


DAMAGES = {
    "model.safetensors is not as it was written": lambda place: flip_a_bit(place / "model.safetensors"),
    "optimizer.bin is not as it was written": lambda place: (place / "optimizer.bin").write_bytes(b"cut off"),
    "random_states_0.pkl is missing": lambda place: (place / "random_states_0.pkl").unlink(),
    "progress.json cannot be read": lambda place: (place / "progress.json").write_text('{"epo'),
    "progress.json is not as it was written": break_progress,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_goes_on(tiny, tmp_path, capsys, damage: str) -> None:
    """Two epochs of two updates, and a checkpoint after each."""
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 2)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--output_dir", out, task=Unfinished)
    DAMAGES[damage](out / "checkpoint")
    capsys.readouterr()
    resumed = go(*flags, "--output_dir", out, "--resume")
    said = capsys.readouterr().out
    assert f"checkpoint is damaged ({damage}): it is kept as checkpoint.damaged, and the one before is tried" in said
    assert "resumed at epoch 1, batch 2" in said
    assert resumed["miou"] == whole["miou"]
    assert same_weights(tmp_path / "whole", out)
    assert (out / "checkpoint.damaged").is_dir()
    assert not (out / "checkpoint").exists()


def test_without_a_sound_checkpoint_training_begins_again(tiny, tmp_path, capsys) -> None:
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 2)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--output_dir", out, task=Unfinished)
    for name in ("checkpoint", "checkpoint.old"):
        flip_a_bit(out / name / "model.safetensors")
    resumed = go(*flags, "--output_dir", out, "--resume")
    assert "no sound checkpoint is left: training begins again" in capsys.readouterr().out
    assert [line["epoch"] for line in lines(out)] == [1, 2]
    assert resumed["miou"] == whole["miou"]
    assert {path.name for path in out.glob("checkpoint*")} == {"checkpoint.damaged", "checkpoint.damaged-2"}


def test_a_checkpoint_goes_on_under_its_own_masks_alone(tiny, tmp_path) -> None:
    flags, out = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    Masks.load(out / "masks.safetensors").shuffled(7).save(out / "masks.safetensors")
    with pytest.raises(InputError, match=r"checkpoint was trained under other masks than those in .*: restore these"):
        go(*flags, "--resume")


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
    before = (tmp_path / "out" / "begun.json").read_text()
    with pytest.raises(InputError, match="gradient_accumulation_steps 1, but this launch has 2"):
        go(*flags, "--resume")
    assert (tmp_path / "out" / "begun.json").read_text() == before


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


def test_a_checkpoint_is_on_the_disk_before_it_counts(tiny, tmp_path, monkeypatch) -> None:
    written: list[tuple[str, bool]] = []
    flush_tree = checkpoint_files.flush_tree

    def noted(folder: Path) -> None:
        written.append((folder.name, (folder / "progress.json").is_file()))
        flush_tree(folder)

    monkeypatch.setattr(checkpoint_files, "flush_tree", noted)
    go("--config", tiny, "--method", "random", "--epochs", 2, "--output_dir", tmp_path / "out")
    assert written == [("checkpoint.new", True)] * 3


def test_a_full_disk_is_said_before_the_checkpoints_are_touched(tiny, tmp_path, monkeypatch) -> None:
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 3)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    made, usage = [], shutil.disk_usage

    def full(folder: Path) -> NamedTuple:
        """No byte is left for the third checkpoint."""
        made.append(folder)
        return usage(folder)._replace(free=0 if len(made) == 3 else 10**12)

    monkeypatch.setattr("px_seg.files.shutil.disk_usage", full)
    with pytest.raises(
        InputError, match=rf"no room for the checkpoint {out / 'checkpoint'}: it takes ([\d,]+) byt"
    ) as told:
        go(*flags, "--output_dir", out)
    needed = int(re.search(r"takes ([\d,]+)", str(told.value))[1].replace(",", ""))
    held = sum(file.stat().st_size for file in (out / "checkpoint").iterdir())
    assert 0.9 * held < needed < 1.1 * held
    assert not (out / "checkpoint.new").exists()
    monkeypatch.undo()
    go(*flags, "--output_dir", out, "--resume")
    assert same_weights(tmp_path / "whole", out)
    assert whole["miou"] == json.loads((out / "results.json").read_text())["miou"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 448 vs 346"),
    ],
)
def test_a_disk_that_fills_up_while_a_checkpoint_is_written_is_said_in_a_line(
    tiny, tmp_path, monkeypatch, error: Exception
) -> None:
    """As another program may do; the last is what torch says of it."""
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 2)
    saves, save = [], Accelerator.save_state

    def fail(self: Accelerator, place: str) -> None:
        saves.append(place)
        if len(saves) == 3:
            monkeypatch.setattr(
                "px_seg.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 512)
            )
            raise error
        save(self, place)

    monkeypatch.setattr(Accelerator, "save_state", fail)
    with pytest.raises(InputError, match=rf"no space left for the checkpoint {out / 'checkpoint'}: 512 bytes are free"):
        go(*flags, "--output_dir", out)
    monkeypatch.undo()
    results = go(*flags, "--output_dir", out, "--resume")
    assert results["miou"] == go(*flags, "--output_dir", tmp_path / "whole")["miou"]


@pytest.mark.parametrize("place", ["masks", "metrics", "model", "pictures", "results"])
def test_a_disk_that_is_full_at_any_other_moment_is_said_in_a_line(tiny, tmp_path, monkeypatch, place: str) -> None:
    """And the run goes on from there."""
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 1)
    owner, name = {
        "masks": (Masks, "save"),
        "metrics": (RunFolder, "log"),
        "model": (Segmentation, "save"),
        "pictures": (Segmentation, "draw"),
        "results": (RunFolder, "finish"),
    }[place]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        said = rf"no space left for the run in {out}: [\d,]+ bytes are free at {out}; make room, and --resume goes on"
        with pytest.raises(InputError, match=said):
            go(*flags, "--output_dir", out)
    go(*flags, "--output_dir", out, "--resume")
    go(*flags, "--output_dir", tmp_path / "whole")
    assert same_weights(tmp_path / "whole", out)


def test_random_states_that_are_not_restored_are_no_checkpoint(tiny, tmp_path, monkeypatch) -> None:
    """Accelerate goes on with others."""
    flags = ("--config", tiny, "--method", "random", "--epochs", 2, "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: (_ for _ in ()).throw(RuntimeError("another version")))
    with pytest.raises(
        InputError, match=r"checkpoint cannot be used \(random_states_0.pkl holds random states that can"
    ):
        go(*flags, "--resume")


def test_a_checkpoint_of_an_earlier_version_is_left_alone(tiny, tmp_path) -> None:
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    (out / "checkpoint" / "progress.json").write_text('{"epoch": 1, "processes": 1}')
    with pytest.raises(
        InputError, match="was written by an earlier version of px_seg: finish the run with that one, or"
    ):
        go(*flags, "--resume")
    assert (out / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "interval"), [(50, (50, 0)), ("50", (50, 0)), ("10min", (None, 600)), ("0.5min", (None, 30))]
)
def test_an_interval_is_in_updates_or_in_minutes(text, interval) -> None:
    assert Interval.parse(text) == interval


@pytest.mark.parametrize("text", ["0", 0, "-5", "10 min", "min", "0min", "10s", "1.5", ""])
def test_what_is_no_interval_is_refused(tiny, tmp_path, text) -> None:
    with pytest.raises(
        InputError, match="checkpoint_every takes a number of updates, such as 50, or of minutes, 10min"
    ):
        go("--config", tiny, f"--checkpoint_every={text}", "--output_dir", tmp_path / "out")
