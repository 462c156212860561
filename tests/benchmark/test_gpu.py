"""The checks of a GPU, without one."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers.runs import REPOSITORY

from px_seg.benchmark import gpu
from px_seg.benchmark.gpu import CHECKS, Check, Machine, check


def fail(machine: Machine) -> str:
    raise RuntimeError("it is\nnot so")


@pytest.mark.slow
def test_each_check_says_in_a_line_what_it_found(tmp_path: Path, monkeypatch) -> None:
    chosen = {name: CHECKS[name] for name in ("bf16", "compacted", "SyncBatchNorm")}
    monkeypatch.setattr(gpu, "CHECKS", {**chosen, "wrong": Check(1, True, fail)})
    said: list[str] = []
    assert not check(Machine(tmp_path, 0), said.append)
    assert said[0].startswith("pass      bf16: loss ")
    assert "mIoU" in said[0]
    assert said[1].startswith("pass      compacted: outputs differ by ")
    assert said[2] == "left out  SyncBatchNorm: it takes 2 GPUs, and there are 0"
    assert said[3].startswith("FAIL      wrong: it is not so (")
    assert said[4:] == ["1 failed: wrong"]


def test_what_a_run_did_not_do_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="losses 1 and 2 differ by more than 10"):
        gpu._close("losses", 1.0, 2.0, 0.1)
    with pytest.raises(RuntimeError, match=r"the run ended with status 2: see .*bad.log"):
        Machine(tmp_path, 0).run("bad", "--epochs", -1)
    assert "error: epochs must be at least 0" in (tmp_path / "bad.log").read_text()


def test_a_machine_without_a_gpu_and_a_folder_in_use_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags, said in (
        ((), "there is no CUDA GPU here: --rehearse"),
        (("--rehearse", "--out", tmp_path), "not empty"),
    ):
        words = ["bash", str(REPOSITORY / "scripts" / "gpu_check.sh"), *map(str, flags)]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
