"""A soak of a few runs, and what it would say of wrong ones."""

import json
from pathlib import Path

import pytest
from helpers.runs import go, script

from px_seg import InputError
from px_seg.benchmark import soak
from px_seg.benchmark.reliability import Case, report_checkpoints, report_memory
from px_seg.benchmark.soak import Soak, report_soak


@pytest.mark.slow
def test_a_soak_without_kills_finishes_every_run_once(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(soak, "SPARSITIES", (0.8,))
    report_soak(Soak(runs=2, kill_every=1e6, compare=1), tmp_path / "soak")
    said = capsys.readouterr().out
    for row in (
        "| killed | 0: 0 of a run",
        "| finished | 2 |",
        "| finished twice | 0 |",
        "other weights or masks | 1, 0",
    ):
        assert row in said, said


def test_runs_that_ended_otherwise_are_told_apart(tiny: Path, tmp_path: Path) -> None:
    runs = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        go("--config", tiny, "--method", "random", "--epochs", 2, "--seed", seed, "--output_dir", run)
    assert soak._same(runs[0], runs[0])
    assert not soak._same(*runs)
    under_way = soak._UnderWay(Soak(), tmp_path)
    assert under_way.misread(runs) == []
    under_way._look()
    line = (runs[1] / "metrics.jsonl").read_text().splitlines()[0]
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    results = runs[0] / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text())))
    under_way._look()
    assert under_way.misread(runs) == [runs[1]]
    assert under_way.twice == {runs[0]}


def test_memory_and_checkpoints_are_measured(monkeypatch, capsys) -> None:
    monkeypatch.setattr("px_seg.benchmark.reliability.EPOCH", 2)
    case = Case("tu-test_resnet", side=32)
    report_memory(case, 16, 8)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "MiB" not in line]
    numbers = [row.split("|")[1].strip() for row in rows]
    assert numbers == [*map(str, range(2, 17, 2)), *map(str, range(1, 9))]
    assert all(100 < float(row.split("|")[2]) < 10**5 for row in rows)
    report_checkpoints(case, 1)
    assert "| a checkpoint, with fsync and SHA-256, ms, median of 1 |" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--runs must be a multiple of 4"):
        report_soak(Soak(runs=3), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not empty: give a new folder"):
        report_soak(Soak(), tmp_path)
    with pytest.raises(InputError, match="--rounds at least 8"):
        report_memory(Case(), 2000, 2)
    done = script("checkpoint", "--encoder", "nothing", name="bench_reliability")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
