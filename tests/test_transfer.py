"""The study of tickets across tasks, small."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from helpers.runs import CONFIGS, TWO, script, smaller

from px_seg import InputError, Masks
from px_seg.command_line import parse
from px_seg.config import TransferConfig
from px_seg.run.pipeline import run
from px_seg.transfer import study


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A configuration of a study whose cells take a second."""
    data = {"train_images": 12, "val_images": 9, "size": 32}
    short = {"rounds": 2, "epochs": 1, "batch_size": 6, "encoder": "resnet20"}
    preset = CONFIGS / "transfer" / "synthetic.yaml"
    return smaller(preset, tmp_path / "small.yaml", data, {"batches": 1, "batch_size": 6}, **short)


def configured(*flags: object) -> TransferConfig:
    return parse(TransferConfig, [str(flag) for flag in flags], CONFIGS / "transfer", "")


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_matrix_is_that_of_its_cells(small, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    flags = ("--config", small, "--sources", "[A,C]", "--targets", "[A,B]", "--output_dir", out)
    outcomes = study(configured(*flags))
    cells = [(o.source, o.target) for o in outcomes]
    # A source is tried on itself even where it is no target: that is where it is pruned.
    assert cells == [("dense", "A"), ("dense", "B"), ("A", "A"), ("A", "B"), ("C", "C"), ("C", "A"), ("C", "B")]
    tasks = yaml.safe_load(small.read_text())["tasks"]
    for outcome in outcomes:
        results = json.loads((out / outcome.source / outcome.target / "results.json").read_text())
        assert (results["accuracy"], results["before_training"]["accuracy"]) == (outcome.after, outcome.before)
        assert list(results["class_accuracy"]) == tasks[outcome.target]
        assert results["sparsity"] == (0 if outcome.source == "dense" else 0.8)
    assert Masks.load(out / "C" / "A" / "masks.safetensors") == Masks.load(out / "C" / "C" / "masks.safetensors")
    assert Masks.load(out / "A" / "A" / "masks.safetensors") != Masks.load(out / "C" / "C" / "masks.safetensors")

    header, *rows = table(out / "after_training.csv")
    assert header == ["pruned on", "A", "B"]
    assert [row[0] for row in rows] == ["dense", "A", "C"]
    after = {(o.source, o.target): o.after for o in outcomes}
    assert float(rows[2][2]) == after["C", "B"]
    assert len(table(out / "cells.csv")) == 8
    assert (out / "transfer.png").is_file()
    assert "weights none: the heads are fitted on the features of a random network" in capsys.readouterr().out

    # Asked for again, nothing is run, however the folder is spelt; with another configuration, nothing is mixed.
    monkeypatch.setattr("px_seg.transfer.run", None)
    monkeypatch.chdir(tmp_path)
    assert study(configured(*flags[:-1], "out")) == outcomes
    with pytest.raises(InputError, match=r"another configuration \(differs in epochs\)"):
        study(configured(*flags, "--epochs", 2))


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on(small, tmp_path, monkeypatch) -> None:
    flags = ("--config", small, "--sources", "[A]", "--targets", "[A,B]")
    whole = study(configured(*flags, "--output_dir", tmp_path / "whole"))
    started = []

    def stopping(task, config, say, termination):
        if len(started) == 3:
            raise KeyboardInterrupt
        started.append(config.output_dir)
        return run(task, config, say)

    monkeypatch.setattr("px_seg.transfer.run", stopping)
    with pytest.raises(KeyboardInterrupt):
        study(configured(*flags, "--output_dir", tmp_path / "cut"))
    monkeypatch.setattr("px_seg.transfer.run", run)
    assert study(configured(*flags, "--output_dir", tmp_path / "cut")) == whole


@pytest.mark.slow
def test_a_study_is_overwritten_whole_and_a_damaged_cell_is_named(small, tmp_path) -> None:
    flags = (
        "--config",
        small,
        "--sources",
        "[A]",
        "--targets",
        "[A,B]",
        "--epochs",
        0,
        "--output_dir",
        tmp_path / "out",
    )
    study(configured(*flags, "--method", "magnitude"))
    other = ("--method", "magnitude", "--sparsity", 0.5)
    with pytest.raises(InputError, match=r"another configuration \(differs in sparsity\)"):
        study(configured(*flags, *other))
    # What cannot work is refused before anything is deleted.
    with pytest.raises(InputError, match="no method 'foo'"):
        study(configured(*flags, "--method", "foo", "--overwrite"))
    outcomes = study(configured(*flags, *other, "--overwrite"))
    assert [round(outcome.backbone_sparsity, 2) for outcome in outcomes] == [0, 0, 0.5, 0.5]
    assert study(configured(*flags, *other)) == outcomes
    results = tmp_path / "out" / "A" / "B" / "results.json"
    whole = results.read_text()
    results.write_text(json.dumps(json.loads(whole) | {"data_fingerprint": "another"}))
    with pytest.raises(InputError, match=r"the run in .*A/B had other data, then at .*: files differ in names"):
        study(configured(*flags, *other))
    results.write_text("{")
    with pytest.raises(InputError, match=r"results.json is damaged: delete the folder .*A/B"):
        study(configured(*flags, *other))


@pytest.mark.slow
def test_two_processes_make_the_same_study(small, tmp_path) -> None:
    flags = ("--config", small, "--sources", "[A]", "--targets", "[A,B]", "--epochs", 0)
    alone = study(configured(*flags, "--output_dir", tmp_path / "alone"))
    launch = {"name": "transfer", "launcher": TWO, "ACCELERATE_USE_CPU": "true"}
    done = script(*flags, "--output_dir", tmp_path / "two", **launch)
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "two" / "after_training.csv") == table(tmp_path / "alone" / "after_training.csv")
    assert len(alone) == 4
    # And again, when all is there.
    assert script(*flags, "--output_dir", tmp_path / "two", **launch).returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "dense"], "a transfer study needs masks"),
        (["--sparsity", "0"], "a transfer study needs masks"),
        (["--sources", "[Z]"], "sources names 'Z', which is not a task: choose from A, B"),
        (["--targets", "[]"], "names no task"),
        (["--sources", "[A,A]"], "or one twice"),
        (["--tasks", "{}"], "tasks names no task"),
        (["--tasks", "{dense: [striped disc, dotted bar]}"], "and is not 'dense': got 'dense'"),
        (["--tasks", "{..: [striped disc, dotted bar]}"], "a task's name has letters"),
        (["--overwrite", "--resume"], "contradict each other"),
        (["--method", "foo"], "no method 'foo'"),
        (["--sparsity", "1.5"], r"sparsity must be in \[0, 1\)"),
        (["--keep_dense", "[encoder.nope]"], "no convolution or linear layer under"),
        (["--method", "snip", "--pruning.per_class", "1000"], "asks for 1000 images of every class"),
        (["--pruning.settings.foo", "1"], "no setting foo"),
        (["--tasks", "{A: [striped disc]}"], "at least two classes"),
        (["--tasks", "{A: [striped disc, sun]}"], "no class 'sun'"),
        (["--masks", "some.safetensors"], "no mask file|leave masks"),
        (["--data.classes", "[striped disc, dotted bar]"], "leave masks and data.classes out"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        study(configured(*flags, "--output_dir", tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_papers_ten_tasks_are_ten_disjoint_sets_of_ten_classes() -> None:
    tasks = yaml.safe_load((CONFIGS / "transfer" / "imagenet.yaml").read_text())["tasks"]
    assert [len(classes) for classes in tasks.values()] == [10] * 10
    every = [name for classes in tasks.values() for name in classes]
    assert len(set(every)) == 100
    assert all(name[0] == "n" and len(name) == 9 and name[1:].isdigit() for name in every)
