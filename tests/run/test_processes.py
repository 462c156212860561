"""One run on several processes: the same batches, one writer, and an end for all when one ends."""

import json
import os
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.runs import TESTS, TWO, go, lines, same_weights, started
from safetensors.torch import load_file

from px_seg import Masks
from px_seg.benchmark.gpu import Undropped
from px_seg.models import weights_in

FLAGS = (
    *("--method", "px", "--epochs", 2, "--threads", 1, "--freeze_bn"),
    *("--data.train_images", 14, "--data.val_images", 5, "--pruning.batches", 3),
)
"""Three updates of four images and two images over; shares of the pruning batches and of the validation differ.

Images are padded with void, so batches differ in how many pixels they have a loss of. BatchNorm would see only a part.
"""


def divided(notes: Path, *flags: object, launcher: tuple[str, ...] = TWO, **environment: str) -> CompletedProcess:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return started(
        *launcher, "-m", "helpers.divided", notes, *flags, PYTHONPATH=path, ACCELERATE_USE_CPU="true", **environment
    )


@pytest.fixture(scope="module")
def alone(tiny_session: Path, tmp_path_factory) -> Path:
    """Updates of four images, on one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    go("--config", tiny_session, *FLAGS, "--batch_size", 4, "--output_dir", out, task=Undropped)
    return out


@pytest.fixture(scope="module")
def pair(tiny_session: Path, tmp_path_factory) -> Path:
    """The same on two, of two images each."""
    folder = tmp_path_factory.mktemp("pair")
    flags = ("--config", tiny_session, *FLAGS, "--batch_size", 2, "--output_dir", folder / "run")
    done = divided(folder / "written.json", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def check_same(out: Path, alone: Path) -> None:
    """The sums are the same, added in another order."""
    assert Masks.load(out / "masks.safetensors") == Masks.load(alone / "masks.safetensors")
    for ours, theirs in zip(lines(out), lines(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["miou"] == pytest.approx(theirs["miou"], abs=1e-4)
        assert ours["pixel_accuracy"] == pytest.approx(theirs["pixel_accuracy"], abs=1e-3)
    weights, expected = (load_file(weights_in(run / "model")) for run in (out, alone))
    assert all((weights[name] - expected[name]).abs().max() < 1e-4 for name in expected)


@pytest.mark.slow
def test_two_processes_train_as_one_does(pair: Path, alone: Path) -> None:
    check_same(pair, alone)
    results = [json.loads((run / "results.json").read_text()) for run in (pair, alone)]
    assert [found["processes"] for found in results] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 1])
def test_accumulated_batches_train_as_whole_ones_do(alone: Path, tiny_session, tmp_path, monkeypatch, size) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", str(4 // size))
    out = tmp_path / "out"
    go("--config", tiny_session, *FLAGS, "--batch_size", size, "--output_dir", out, task=Undropped)
    check_same(out, alone)


@pytest.mark.slow
def test_two_processes_accumulate_as_one_does(alone: Path, tiny_session: Path, tmp_path) -> None:
    flags = ("--config", tiny_session, *FLAGS, "--batch_size", 1, "--output_dir", tmp_path / "out")
    done = divided(tmp_path / "written.json", *flags, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="2")
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "out", alone)


@pytest.mark.slow
def test_two_processes_weigh_clip_and_average_as_one_does(tiny_session: Path, tmp_path) -> None:
    more = ("--loss", "cross_entropy(label_smoothing=0.1)", "--class_weights", "balanced", "--ema", 0.8)
    more += ("--optimizer.clip", 0.5, "--schedule.name", "cosine", "--schedule.warmup", 0.4)
    flags = ("--config", tiny_session, *FLAGS, *more)
    go(*flags, "--batch_size", 4, "--output_dir", tmp_path / "alone", task=Undropped)
    # Each with its own images in memory.
    pair = (*flags, "--batch_size", 2, "--data.cache", "--output_dir", tmp_path / "pair")
    done = divided(tmp_path / "written.json", *pair)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "pair", tmp_path / "alone")
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("pair", "alone"))
    assert found["unaveraged"]["miou"] == pytest.approx(expected["unaveraged"]["miou"], abs=1e-4)
    assert found["best"]["epoch"] == expected["best"]["epoch"]
    assert sum("are kept in memory" in note for note in found["notes"]) == 2


@pytest.mark.slow
def test_only_the_main_process_writes(pair: Path) -> None:
    """But for each one's random states, and the folder that the first to come makes for them."""
    written = json.loads((pair.parent / "written.json").read_text())
    inside = {Path(file).name for file in written if Path(file).is_relative_to(pair)}
    assert inside <= {"random_states_1.pkl", "checkpoint.new"}


@pytest.mark.slow
def test_two_processes_that_were_told_to_end_go_on(pair: Path, tiny_session: Path, tmp_path) -> None:
    """The second process is told, in the middle of an epoch; both save, and the end is that of an undisturbed run."""
    flags = ("--config", tiny_session, *FLAGS, "--batch_size", 2, "--output_dir", tmp_path / "out")
    done = divided(tmp_path / "written.json", "told", *flags)
    assert done.returncode != 0
    assert json.loads((tmp_path / "out" / "stopped.json").read_text()) == {"by": "SIGTERM"}
    assert lines(tmp_path / "out") == []
    again = divided(tmp_path / "written.json", *flags, "--resume")
    assert again.returncode == 0, again.stderr
    assert "resumed at epoch 1, batch 2" in again.stdout
    assert same_weights(tmp_path / "out", pair)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("dies", "SIGKILL"), ("fails", "the second process has failed")])
def test_a_process_that_ends_ends_the_other(tiny_session: Path, tmp_path, how: str, said: str) -> None:
    flags = ("--config", tiny_session, *FLAGS, "--batch_size", 2, "--output_dir", tmp_path / "out")
    begun = time.monotonic()
    done = divided(tmp_path / "written.json", how, *flags)
    assert done.returncode != 0
    assert said in done.stderr
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "out" / "results.json").exists()
