"""How many threads a run takes of itself, and what processes tell one another."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.runs import parsed, worker

from px_seg.devices import in_channels_last, make_accelerator


@pytest.mark.parametrize(
    ("launched_with", "processes", "flags", "threads"),
    [
        # What accelerate launch sets where nothing is asked for.
        ("1", "1", (), 3),
        ("1", "2", (), 1),
        ("1", "1", ("--threads", 2), 2),
        # The user's own wish.
        ("5", "1", (), 1),
        ("5", "1", ("--threads", 2), 2),
    ],
)
def test_a_run_takes_its_share_of_the_cores(
    tmp_path, monkeypatch, launched_with: str, processes: str, flags: tuple, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setenv("OMP_NUM_THREADS", launched_with)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    torch.set_num_threads(1)
    make_accelerator(parsed(*flags), tmp_path)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_an_error_of_the_main_process_is_raised_on_all(tmp_path) -> None:
    worker("main_fails", tmp_path, ACCELERATE_USE_CPU="true")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["refused by 0"] * 2


@pytest.mark.parametrize(
    ("asked", "device", "precision", "expected"),
    [
        (None, "cuda", "fp16", True),
        (None, "cuda", "bf16", True),
        (None, "cuda", "no", False),
        (None, "cpu", "bf16", False),
        (False, "cuda", "fp16", False),
        (True, "cpu", "no", True),
    ],
)
def test_channels_come_last_where_that_is_faster_unless_told(tiny, asked, device, precision, expected) -> None:
    config = replace(parsed("--config", tiny), channels_last=asked)
    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=precision)
    assert in_channels_last(config, accelerator) is expected
