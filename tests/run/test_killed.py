"""Runs that are killed or told to end, and end as if nothing had happened."""

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.killed import MOMENTS
from helpers.runs import TESTS, go, lines, same_weights, started

from px_seg import Masks

FLAGS = (
    *("--method", "px", "--rounds", 4, "--epochs", 3, "--checkpoint_every", 1),
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


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(whole: Path, tiny_session: Path, tmp_path, moment) -> None:
    out, flags = tmp_path / "out", ("--config", tiny_session, *FLAGS, "--output_dir", tmp_path / "out")
    done = signalled("SIGKILL", moment, *flags)
    assert done.returncode == -9, done.stderr
    assert not (out / "results.json").exists()
    go(*flags, "--resume")
    check_as_undisturbed(out, whole)


SAVED = {"scoring": "masks.partial.safetensors", "epoch": "checkpoint", "evaluation": "checkpoint"}
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
