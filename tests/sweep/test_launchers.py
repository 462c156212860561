"""Where runs are carried out: this machine's GPUs or cores, or Slurm."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import accelerate.commands.launch
import pytest
from helpers.sweeps import SMALL, directly, ran, request, stand_in
from helpers.waiting import wait_for

from px_seg import InputError
from px_seg.sweep import launchers, plan_sweep, run_sweep
from px_seg.sweep.claimed_run import with_ending
from px_seg.sweep.launchers import (
    ACCELERATE,
    Beside,
    LocalLauncher,
    SlurmLauncher,
    command,
    shares,
    slurm_parameters,
    watched,
)
from px_seg.sweep.status import status_of


def test_gpus_are_shared_out_evenly() -> None:
    assert shares(["0", "1", "2", "3"], 2) == [("0", "1"), ("2", "3")]
    assert shares(["4", "6"], 4) == [("4",), ("6",), ("4",), ("6",)]
    assert shares([], 2) == [(), ()]
    for gpus, jobs in ((3, 2), (4, 3), (2, 3)):
        with pytest.raises(InputError, match=f"{jobs} jobs cannot share {gpus} GPUs evenly"):
            shares([str(index) for index in range(gpus)], jobs)


def test_each_job_is_launched_with_its_gpus(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(launchers, "visible_gpus", lambda: ["4", "5", "6", "7"])
    started = []

    def start(words: list[str], text: str, environment: dict[str, str], log: Path) -> "Busy":
        started.append((words, environment))
        return Busy()

    monkeypatch.setattr(launchers, "_Process", start)
    monkeypatch.setattr(launchers, "command", command)
    launcher = LocalLauncher(["seg.py"], jobs=2, mixed_precision="fp16")
    assert (launcher.slots, launcher.processes) == (2, 2)
    for cell in plan_sweep(request(tmp_path, methods=("random",), seeds=(0,))):
        launcher.start(cell, 0)
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in started] == ["4,5", "6,7"]
    words = " ".join(started[0][0])
    assert "--num_processes 2 --mixed_precision fp16" in words
    assert "--multi_gpu --main_process_port 0" in words
    assert "--cpu" not in words
    assert LocalLauncher(["seg.py"]).slots == 4
    assert LocalLauncher(["seg.py"], gpus=[1, 3]).shares == [("5",), ("7",)]
    with pytest.raises(InputError, match="there is no GPU 4: 4 are visible"):
        LocalLauncher(["seg.py"], gpus=[4])


class Busy:
    def ended(self) -> bool:
        return False


def test_without_gpus_each_job_has_its_share_of_the_cores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    launcher = LocalLauncher(["seg.py"], jobs=2, gpus=())
    (cell,) = plan_sweep(request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,)))
    words = command(cell, ["seg.py"], launcher.processes, False, "no", launcher.threads)
    assert words[-2:] == ["--threads", "3"]
    assert "ACCELERATE_USE_CPU=true" in words
    (cell,) = plan_sweep(
        request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,), flags=(*SMALL, "--threads", "3"))
    )
    assert "--threads" not in command(cell, ["seg.py"], 1, False, "no", 1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"jobs": 10**11}, "at most 1024"),
        ({"mixed_precision": "fp8"}, "no mixed precision 'fp8'"),
    ],
)
def test_launches_that_cannot_be_are_refused(keywords, message) -> None:
    with pytest.raises(InputError, match=message):
        LocalLauncher(["seg.py"], **keywords)


@pytest.mark.slow
def test_a_sweep_runs_through_submitit(tmp_path) -> None:
    stand_in(tmp_path)
    sweep = request(tmp_path / "out", methods=("random",), sparsities=(0.9,))
    parameters = slurm_parameters(["timeout_min=5"])
    launcher = SlurmLauncher(
        [str(tmp_path / "seg.py")], tmp_path / "out" / "sweep" / "slurm", parameters, cluster="local"
    )
    assert run_sweep(sweep, launcher).unfinished == []
    assert len(ran(tmp_path)) == 2
    assert run_sweep(sweep, launcher).unfinished == []
    assert len(ran(tmp_path)) == 2


@pytest.mark.slow
def test_a_submitted_job_is_found_again_and_not_submitted_twice(tmp_path, monkeypatch) -> None:
    stand_in(tmp_path, "time.sleep(3)")
    (cell,) = plan_sweep(request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,)))
    launcher = SlurmLauncher([str(tmp_path / "seg.py")], tmp_path / "jobs", {"timeout_min": 5}, cluster="local")
    first = launcher.start(cell, 0)
    monkeypatch.setattr(launcher, "_lives", lambda number: True)
    monkeypatch.setattr(launcher.executor, "submit", None)
    again = launcher.start(cell, 0)
    assert again._job.job_id == first._job.job_id
    wait_for(first.ended, 60)
    assert len(ran(tmp_path)) == 1


def test_a_job_whose_time_is_up_stops_its_run_and_is_asked_for_again(tmp_path) -> None:
    """As submitit does it: it handles a signal while the call waits, and asks for the checkpoint in the handler."""
    stand_in(tmp_path, "time.sleep(600)")
    (cell,) = plan_sweep(request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,)))
    call = Beside(watched(cell, 0, directly(cell, [str(tmp_path / "seg.py")])), cell.config.to_yaml())
    again = []

    def time_is_up(*_: object) -> None:
        again.append(call.checkpoint())
        raise SystemExit

    def tell() -> None:
        wait_for(lambda: ran(tmp_path), 60)
        os.kill(os.getpid(), signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, time_is_up)
    try:
        threading.Thread(target=tell).start()
        with pytest.raises(SystemExit):
            call()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert json.loads(with_ending(cell.notes, "json").read_text())["status"] == "stopped"
    assert list(cell.notes.parent.glob("*.claim-*")) == []
    stand_in(tmp_path)
    assert pickle.loads(pickle.dumps(again[0])).function() == 0
    assert status_of(cell, 1, "no").kind == "done"


def test_a_users_own_defaults_of_accelerate_do_not_choose_the_gpus(tmp_path, monkeypatch) -> None:
    defaults = tmp_path / "default_config.yaml"
    defaults.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: 0,1\nnum_processes: 2\n"
        "mixed_precision: fp16\nnum_machines: 1\nuse_cpu: false\n"
    )
    monkeypatch.setattr("accelerate.commands.launch.default_config_file", str(defaults))
    (cell,) = plan_sweep(request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,)))
    words = command(cell, ["seg.py"], 2, True, "bf16", 1)[3:]
    parser = accelerate.commands.launch.launch_command_parser()
    read_back, _, _ = accelerate.commands.launch._validate_launch_command(parser.parse_args(words))
    assert (read_back.num_processes, read_back.mixed_precision) == (2, "bf16")
    assert (read_back.gpu_ids, bool(read_back.multi_gpu)) == ("all", True)


def test_one_process_is_started_with_the_environment_that_accelerate_launch_would_give_it(tmp_path) -> None:
    (cell,) = plan_sweep(request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,)))
    code = "import os, sys; print({key: os.environ[key] for key in sys.argv[1].split(',')})"
    keys = "ACCELERATE_USE_CPU,ACCELERATE_MIXED_PRECISION,OMP_NUM_THREADS"
    script = tmp_path / "seg.py"
    script.write_text(code)
    for cuda, precision in ((False, "no"), (True, "bf16")):
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(ACCELERATE)]
        launch += ["--num_processes", "1", "--mixed_precision", precision, *([] if cuda else ["--cpu"])]
        ours = command(cell, [str(script), keys], 1, cuda, precision, 1)
        said = [
            subprocess.run(words, capture_output=True, text=True, check=True).stdout
            for words in (ours, [*launch, str(script), keys])
        ]
        assert said[0].lower() == said[1].lower()


def test_what_slurm_cannot_do_is_said_in_a_line(tmp_path) -> None:
    assert slurm_parameters(["mem_gb=1.5", "timeout_min=60", "slurm_partition=gpu"]) == {
        **{"mem_gb": 1.5, "timeout_min": 60, "slurm_partition": "gpu"}
    }
    for key, value in (("slurm_gres", "gpu:1"), ("tasks_per_node", 4), ("slurm_gpus_per_node", 1)):
        with pytest.raises(InputError, match=f"slurm: leave {key} out"):
            SlurmLauncher(["seg.py"], tmp_path, {key: value}, cluster="local")
    with pytest.raises(InputError, match="slurm: "):
        SlurmLauncher(["seg.py"], tmp_path, {"timeout_min": "1h"}, cluster="local")
    for words, message in ((["timeout"], "KEY=VALUE"), (["=3"], "KEY=VALUE")):
        with pytest.raises(InputError, match=message):
            slurm_parameters(words)
    with pytest.raises(InputError, match=r"slurm: .*nope"):
        SlurmLauncher(["seg.py"], tmp_path, {"nope": 1}, cluster="local")
    with pytest.raises(InputError, match="gpus_per_node must be a number"):
        SlurmLauncher(["seg.py"], tmp_path, {"gpus_per_node": "many"}, cluster="local")
    with pytest.raises(InputError, match="slurm: Could not detect"):
        SlurmLauncher(["seg.py"], tmp_path, {})
