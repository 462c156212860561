"""scripts/gpu_evidence.sh, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import REPOSITORY, make_voc


def evidence(*words: object) -> subprocess.CompletedProcess:
    command = ["bash", str(REPOSITORY / "scripts" / "gpu_evidence.sh"), *map(str, words)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_evidence_that_a_gpu_is_asked_for_is_planned_and_checked_without_one(tmp_path) -> None:
    done = evidence("--dry_run", "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("+ python scripts/bench_px.py") == 6
    assert "nothing is not there yet: it would be composed first" in done.stdout
    # Data that is there is looked into: 16 batches of 16 images are more than these.
    done = evidence("--dry_run", "--data", make_voc(tmp_path / "data"), "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    done = evidence("--dry_run", "--rehearse", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 to do" in done.stdout
    assert not (tmp_path / "out").exists()
    done = evidence("--dri")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_the_evidence_is_gathered_in_chunks(tmp_path) -> None:
    words = ("--rehearse", "--out", tmp_path / "out")
    gathered = tmp_path / "out" / "evidence"
    gathered.mkdir(parents=True)
    for name in ("px_round_float32", "px_prune_float32"):
        (gathered / f"{name}.md").write_text("measured before")
    too_short = evidence(*words, "--seconds", 1)
    assert too_short.returncode == 1
    assert "takes more than a whole chunk: raise --seconds above 1" in too_short.stderr
    assert not (gathered / "criteria_cost.md").exists()

    (gathered / "criteria_cost.md").touch()
    cut = evidence(*words, "--seconds", 8)
    assert cut.returncode == 75, cut.stderr
    assert "this chunk is over: run the script again" in cut.stderr
    (gathered / "criteria_cost.md").unlink()
    done = evidence(*words, "--seconds", 280)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in gathered.iterdir()} >= {"criteria_cost.md", "photo"}
    assert {path.name for path in (gathered / "photo").iterdir()} >= {"table.md", "curves.png", "index.html"}
    assert (
        (gathered / "criteria_cost.md").read_text().startswith("    python scripts/bench_criteria.py cost --device cpu")
    )
    # What was there is not done again.
    assert (gathered / "px_round_float32.md").read_text() == "measured before"
