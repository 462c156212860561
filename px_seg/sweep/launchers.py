"""Where the runs of a sweep are carried out: in processes of this machine, or as jobs of Slurm."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from px_seg.errors import InputError
from px_seg.sweep import job
from px_seg.sweep.plan import Cell

PRECISIONS = ("no", "fp16", "bf16")


class Job(Protocol):
    """One run under way."""

    def ended(self) -> bool: ...

    def stop(self) -> None:
        """Have the run end, if the sweep's end is to be its own; it can be resumed."""

    def wait(self) -> None:
        """Return when a run that was stopped has ended."""


class Launcher(Protocol):
    """What starts runs."""

    slots: int
    """How many runs may be under way."""
    processes: int
    """Processes of each run."""
    mixed_precision: str

    def start(self, cell: Cell) -> Job: ...


def command(cell: Cell, script: Path, processes: int, cuda: bool, mixed_precision: str, threads: int) -> list[str]:
    """How `accelerate launch` is asked for a run, whose configuration lies among the sweep's notes.

    `threads` are for a run without GPUs whose own configuration does not say.
    """
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_machines", "1"]
    launch += ["--num_processes", str(processes), "--mixed_precision", mixed_precision, "--dynamo_backend", "no"]
    if not cuda:
        launch.append("--cpu")
    elif processes > 1:
        # Two runs on one machine must not meet at one port.
        launch += ["--multi_gpu", "--main_process_port", "0"]
    run = [str(script), "--config", str(job.with_ending(cell.notes, "yaml"))]
    if not cuda and cell.config.threads is None:
        run += ["--threads", str(threads)]
    return [*launch, *run]


def watched(cell: Cell, run: Sequence[str]) -> list[str]:
    """The command of the process that stays beside a run, its configuration written where the run reads it."""
    cell.notes.parent.mkdir(parents=True, exist_ok=True)
    cell.config.save(job.with_ending(cell.notes, "yaml"))
    return [sys.executable, "-P", job.__file__, str(cell.notes), str(cell.folder), *run]


class LocalLauncher:
    """Runs as processes of this machine, `jobs` at a time, the GPUs shared out among them.

    `jobs` is by default one for each GPU, and one without any. `gpus` are indices among those that are visible; by
    default all, and none where it is empty. Raises InputError for GPUs that are not there or cannot be shared evenly.
    """

    def __init__(
        self, script: Path, jobs: int | None = None, gpus: Sequence[int] | None = None, mixed_precision: str = "no"
    ) -> None:
        visible = visible_gpus()
        chosen = range(len(visible)) if gpus is None else gpus
        if beyond := [index for index in chosen if index not in range(len(visible))]:
            raise InputError(f"there is no GPU {beyond[0]}: {len(visible)} are visible, counted from 0")
        if jobs is not None and jobs < 1:
            raise InputError(f"--jobs must be at least 1, got {jobs}")
        _check_precision(mixed_precision)
        self.script, self.mixed_precision = script, mixed_precision
        self.slots = jobs or max(1, len(chosen))
        self.shares = shares([visible[index] for index in chosen], self.slots)
        self.processes = max(1, len(self.shares[0]))
        self.threads = max(1, cores() // self.slots)
        self._busy: dict[int, _Process] = {}

    def start(self, cell: Cell) -> "_Process":
        slot = next(s for s in range(self.slots) if s not in self._busy or self._busy[s].ended())
        gpus = self.shares[slot]
        run = command(cell, self.script, self.processes, bool(gpus), self.mixed_precision, self.threads)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        self._busy[slot] = _Process(watched(cell, run), environment)
        return self._busy[slot]


class _Process:
    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        # In a session of its own: Ctrl-C reaches it through `stop`, once.
        self._process = subprocess.Popen(words, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()


class SlurmLauncher:
    """Runs as jobs of Slurm, through submitit; they stay when the sweep ends, and are found again.

    `parameters` are those of submitit's `update_parameters`, such as timeout_min, gpus_per_node, slurm_partition;
    `cluster` is `local` to try it without Slurm. Raises InputError where submitit is not installed, there is
    no Slurm, or a parameter is not known.
    """

    def __init__(
        self,
        script: Path,
        folder: Path,
        parameters: Mapping[str, Any],
        jobs: int | None = None,
        mixed_precision: str = "no",
        cluster: str = "slurm",
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise InputError("--launcher slurm needs submitit: pip install -e '.[slurm]'") from None
        _check_precision(mixed_precision)
        self.gpus = parameters.get("gpus_per_node", 0)
        if not isinstance(self.gpus, int) or self.gpus < 0:
            raise InputError(f"gpus_per_node is a number of GPUs, got {self.gpus!r}")
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(name="px_seg", **parameters)
        except (RuntimeError, TypeError, ValueError, NameError) as error:
            raise InputError(f"slurm: {' '.join(str(error).split())[:300]}") from None
        self.script, self.mixed_precision = script, mixed_precision
        self.slots, self.processes = jobs or sys.maxsize, max(1, self.gpus)
        self.threads = parameters.get("cpus_per_task", 1)

    def start(self, cell: Cell) -> "_Submitted":
        run = command(cell, self.script, self.processes, self.gpus > 0, self.mixed_precision, self.threads)
        ticket = job.with_ending(cell.notes, "slurm")
        words = watched(cell, run)
        if ticket.is_file() and self._lives(ticket.read_text()):
            return _Submitted(self._job(ticket.read_text()))
        submitted = self.executor.submit(Requeued(words))
        ticket.write_text(submitted.job_id)
        return _Submitted(submitted)

    def _job(self, number: str) -> Any:
        inner = self.executor._executor
        return inner.job_class(inner.folder, number)

    def _lives(self, number: str) -> bool:
        return self._job(number).state in ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "SUSPENDED")


class _Submitted:
    def __init__(self, job: Any) -> None:
        self._job = job

    def ended(self) -> bool:
        return self._job.done()

    def stop(self) -> None:
        """Nothing: the job is Slurm's."""

    def wait(self) -> None:
        """Nothing: the job is Slurm's."""


@dataclass(frozen=True)
class Requeued:
    """A command as submitit calls it, asked for again when the job's time runs out: the run is then resumed."""

    words: Sequence[str]

    def __call__(self) -> int:
        return subprocess.run(self.words, check=False).returncode

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def shares(gpus: Sequence[str], jobs: int) -> list[tuple[str, ...]]:
    """The GPUs of each of so many jobs: as many for all, or one for several jobs, or none where there are none.

    Raises InputError where some would have more than others.
    """
    if not gpus:
        return [()] * jobs
    if len(gpus) >= jobs and len(gpus) % jobs == 0:
        each = len(gpus) // jobs
        return [tuple(gpus[slot * each : (slot + 1) * each]) for slot in range(jobs)]
    if jobs % len(gpus) == 0:
        return [(gpus[slot % len(gpus)],) for slot in range(jobs)]
    raise InputError(f"{jobs} jobs cannot share {len(gpus)} GPUs evenly: choose other --jobs, or name some with --gpus")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slurm_parameters(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as a mapping, whole numbers as such. InputError for a word of another form."""
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"\w+", key):
            raise InputError(f"--slurm takes KEY=VALUE, such as timeout_min=600 or slurm_partition=gpu: got {word!r}")
        parameters[key] = int(value) if re.fullmatch(r"\d+", value) else value
    return parameters


def _check_precision(name: str) -> None:
    if name not in PRECISIONS:
        raise InputError(f"there is no mixed precision {name!r}: choose one of {', '.join(PRECISIONS)}")
