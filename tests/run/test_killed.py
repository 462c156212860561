"""Runs that are killed or told to end, and end as if nothing had happened."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.killed import MOMENTS
from helpers.runs import TESTS, go, lines, same_weights, started

from px_seg import Masks
from px_seg.run import checkpoint_files

FLAGS = (
    *("--method", "px", "--rounds", 4, "--epochs", 3),
    *("--recalibrate", "statistics", "--compact", "--granularity", "filter", "--threads", 1),
)
"""Every stage there is; an epoch has two updates, a validation five images."""


@pytest.fixture(scope="module")
def whole(tiny_session: Path, tmp_path_factory) -> Path:
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    go("--config", tiny_session, *FLAGS, "--output_dir", folder / "run")
    return folder / "run"


def signalled(name: str, moment: str, *flags: object) -> CompletedProcess:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return started("-m", "helpers.killed", name, moment, *flags, PYTHONPATH=path)


def check_as_undisturbed(out: Path, whole: Path) -> None:
    assert same_weights(whole, out)
    assert Masks.load(out / "masks.safetensors") == Masks.load(whole / "masks.safetensors")
    spent = ("train_seconds", "evaluate_seconds")
    logs = [[{key: line[key] for key in line if key not in spent} for line in lines(run)] for run in (whole, out)]
    assert logs[0] == logs[1]
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize(
    "moment", [moment for moment in MOMENTS if moment not in ("saving", "beginning", "checking", "together")]
)
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(whole: Path, tiny_session: Path, tmp_path, moment) -> None:
    out, flags = tmp_path / "out", ("--config", tiny_session, *FLAGS, "--output_dir", tmp_path / "out")
    done = signalled("SIGKILL", moment, *flags, "--checkpoint_every", 1)
    assert done.returncode == -9, done.stderr
    assert not (out / "results.json").exists()
    go(*flags, "--resume")
    check_as_undisturbed(out, whole)


def test_a_run_that_is_killed_as_it_begins_begins_again(whole: Path, tiny_session: Path, tmp_path) -> None:
    out, flags = tmp_path / "out", ("--config", tiny_session, *FLAGS, "--output_dir", tmp_path / "out")
    assert signalled("SIGKILL", "beginning", *flags).returncode == -9
    assert {path.name for path in out.iterdir()} == {".lock"}
    (out / "config.yaml.0123abcd.new").write_text("half of")
    go(*flags)
    check_as_undisturbed(out, whole)


def test_what_to_do_after_ctrl_c_depends_on_what_was_begun(tiny_session: Path, tmp_path) -> None:
    """With --overwrite the run that is there would be continued by --resume, not the one that was asked for."""
    out, flags = tmp_path / "out", ("--config", tiny_session, "--method", "random", "--epochs", 0)
    go(*flags, "--output_dir", out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done = signalled("SIGINT", "checking", *flags, "--threads", 1, "--seed", 1, "--overwrite", "--output_dir", out)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "interrupted: nothing was written yet, the same command begins again"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_after_a_second_kill_there_is_still_a_checkpoint(tiny_session: Path, tmp_path, monkeypatch) -> None:
    """The first leaves the one before alone, and a new one under the name that it had while it was written."""
    out, flags = tmp_path / "out", ("--config", tiny_session, *FLAGS, "--output_dir", tmp_path / "out")
    assert signalled("SIGKILL", "renaming", *flags, "--checkpoint_every", 1).returncode == -9
    assert not (out / "checkpoint").exists()
    held = out / "checkpoint.old", out / "checkpoint.new"
    assert all((place / "progress.json").is_file() for place in held)
    found = checkpoint_files.newest(out / "checkpoint", print)
    assert found is not None
    assert found.folder == out / "checkpoint"
    assert found.record["positions"][0]["epoch"] == 1
    # Written anew where the newest is gone: the one before stays until the new one has its name.
    shutil.rmtree(out / "checkpoint")
    shutil.copytree(held[0], held[1])
    (held[1] / "progress.json").unlink()
    names = []
    monkeypatch.setattr(Path, "rename", lambda self, target: names.append((held[0].is_dir(), target.name)))
    with suppress(FileNotFoundError):
        checkpoint_files.install(out / "checkpoint", found.record)
    assert names == [(True, "checkpoint")]


SAVED = {"scoring": "masks.partial.safetensors", "epoch": "checkpoint", "saving": "checkpoint"}
"""What there is to go on from, by the moment at which a run was told to end."""


@pytest.mark.parametrize(("name", "status", "said"), [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "int")])
@pytest.mark.parametrize("moment", SAVED)
def test_a_run_that_is_told_to_end_saves_all_it_has_done(
    whole: Path, tiny_session: Path, tmp_path, capsys, moment: str, name: str, status: int, said: str
) -> None:
    """With intervals in which nothing else would have been saved."""
    out, flags = tmp_path / "out", ("--config", tiny_session, *FLAGS, "--output_dir", tmp_path / "out")
    done = signalled(name, moment, *flags, "--checkpoint_every", 1000)
    assert done.returncode == status, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(said)
    assert last.endswith("--resume, instead of --overwrite, continues from what was saved last")
    assert "Traceback" not in done.stderr
    assert json.loads((out / "stopped.json").read_text()) == {"by": {"SIGTERM": "SIGTERM", "SIGINT": "Ctrl-C"}[name]}
    assert (out / SAVED[moment]).exists()
    go(*flags, "--resume")
    if moment == "epoch":
        assert "resumed at epoch 2, batch 2" in capsys.readouterr().out
    check_as_undisturbed(out, whole)


def test_a_signal_to_all_processes_lets_the_update_in_hand_have_its_images(whole: Path, tiny_session: Path, tmp_path):
    flags = ("--config", tiny_session, *FLAGS, "--data.workers", 2, "--output_dir", tmp_path / "out")
    done = signalled("SIGTERM", "together", *flags)
    assert done.returncode == 143, done.stderr
    go(*flags, "--resume")
    check_as_undisturbed(tmp_path / "out", whole)


def test_a_run_in_bfloat16_goes_on_as_well(tiny_session: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    flags = ("--config", tiny_session, *FLAGS)
    go(*flags, "--output_dir", tmp_path / "whole")
    out = tmp_path / "out"
    assert signalled("SIGKILL", "epoch", *flags, "--output_dir", out, "--checkpoint_every", 1).returncode == -9
    results = go(*flags, "--output_dir", out, "--resume")
    assert results["mixed_precision"] == "bf16"
    check_as_undisturbed(out, tmp_path / "whole")
