"""Where the runs of a sweep are carried out: in processes of this machine, or as jobs of Slurm."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from px_seg.devices import check_precision
from px_seg.errors import InputError, one_line
from px_seg.sweep import claimed_run
from px_seg.sweep.plan import Cell

PRECISIONS = ("no", "fp16", "bf16")


ACCELERATE = Path(__file__).with_name("accelerate.yaml")
"""What accelerate starts from, instead of a user's own defaults, which may name other GPUs."""

ONE_TASK = ("tasks_per_node", "nodes", "slurm_gres", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_num_gpus")
"""Parameters of submitit that a run has no use for, or that say what `gpus_per_node` says."""


class Job(Protocol):
    """One run under way."""

    def ended(self) -> bool: ...

    def status(self) -> int | None:
        """Exit status of the process beside a run that has ended, if it is known."""

    def stop(self) -> None:
        """End the run, if it is to end with the sweep; it can be resumed."""

    def wait(self) -> None:
        """Return when a run that was stopped has ended."""


class Launcher(Protocol):
    """What starts runs."""

    slots: int
    """How many runs may be under way."""
    processes: int
    """Processes of each run."""
    mixed_precision: str

    def start(self, cell: Cell, attempts: int) -> Job:
        """Start a run of which so many attempts are known: one that has failed since is not tried again."""


def command(
    cell: Cell, program: Sequence[str], processes: int, cuda: bool, mixed_precision: str, threads: int
) -> list[str]:
    """How a run is started, whose configuration lies among the sweep's notes.

    Several processes are `accelerate launch`'s. One is started as that would start it, with its environment, but
    without a launcher in between, which keeps neither exit statuses nor a run that it is told to end, and takes seconds
    of its own. `program` is what carries a run out, as `accelerate launch` takes it: a script, or --module and a
    module's name, with first arguments of its own. `threads` are for a run without GPUs whose own configuration does
    not say.
    """
    run = [*program, "--config", str(claimed_run.with_ending(cell.notes, "yaml"))]
    if not cuda and cell.config.threads is None:
        run += ["--threads", str(threads)]
    if processes == 1:
        setting = [f"ACCELERATE_USE_CPU={str(not cuda).lower()}", f"ACCELERATE_MIXED_PRECISION={mixed_precision}"]
        words = ["-m" if word == "--module" else word for word in run]
        return ["env", *setting, "OMP_NUM_THREADS=1", sys.executable, *words]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(ACCELERATE)]
    launch += ["--num_processes", str(processes), "--mixed_precision", mixed_precision]
    # Two runs on one machine must not meet at one port.
    launch += ["--multi_gpu", "--main_process_port", "0"] if cuda else ["--cpu"]
    return [*launch, *run]


def watched(cell: Cell, attempts: int, run: Sequence[str]) -> list[str]:
    """The command of the process that stays beside a run; it reads the run's configuration from its input."""
    return [sys.executable, "-P", claimed_run.__file__, str(cell.notes), str(cell.folder), str(attempts), *run]


class LocalLauncher:
    """Runs as processes of this machine, `jobs` at a time, the GPUs shared out among them.

    `jobs` is by default one for each GPU, and one without any. `gpus` are indices among those that are visible; by
    default all, and none where it is empty. Raises InputError for GPUs that are not there or cannot be shared evenly.
    """

    def __init__(
        self,
        program: Sequence[str],
        jobs: int | None = None,
        gpus: Sequence[int] | None = None,
        mixed_precision: str = "no",
    ) -> None:
        visible = visible_gpus()
        chosen = range(len(visible)) if gpus is None else gpus
        if beyond := [index for index in chosen if index not in range(len(visible))]:
            raise InputError(f"there is no GPU {beyond[0]}: {len(visible)} are visible, counted from 0")
        _check_launch(jobs, mixed_precision)
        if not chosen:
            check_precision(mixed_precision, "cpu")
        self.program, self.mixed_precision = tuple(program), mixed_precision
        self.slots = jobs or max(1, len(chosen))
        self.shares = shares([visible[index] for index in chosen], self.slots)
        self.processes = max(1, len(self.shares[0]))
        self.threads = max(1, cores() // self.slots)
        self._busy: dict[int, _Process] = {}

    def start(self, cell: Cell, attempts: int) -> "_Process":
        slot = next(s for s in range(self.slots) if s not in self._busy or self._busy[s].ended())
        gpus = self.shares[slot]
        run = command(cell, self.program, self.processes, bool(gpus), self.mixed_precision, self.threads)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        log = claimed_run.with_ending(cell.notes, "log")
        self._busy[slot] = _Process(watched(cell, attempts, run), cell.config.to_yaml(), environment, log)
        return self._busy[slot]


class _Process:
    def __init__(self, words: Sequence[str], text: str, environment: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        # In a session of its own: Ctrl-C reaches it through `stop`, once. It may outlive whoever reads our output.
        with log.open("a") as output:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
                text=True,
            )
        _feed(self._process, text)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def status(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()


def _feed(process: subprocess.Popen[str], text: str) -> None:
    """Give a process its input. One that ended without reading it says so by its exit status."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stream:
        stream.write(text)


class SlurmLauncher:
    """Runs as jobs of Slurm, through submitit; they stay when the sweep ends, and are found again.

    `parameters` are those of submitit's `update_parameters`, such as timeout_min, gpus_per_node, slurm_partition;
    `cluster` is `local` to try it without Slurm. Raises InputError where submitit is not installed, there is
    no Slurm, or a parameter is not known.
    """

    def __init__(
        self,
        program: Sequence[str],
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
        _check_launch(jobs, mixed_precision)
        if wrong := [key for key in ONE_TASK if key in parameters]:
            raise InputError(
                f"slurm: leave {wrong[0]} out: a run is one task on one node; gpus_per_node=N gives it GPUs"
            )
        self.gpus = parameters.get("gpus_per_node", 0)
        if not isinstance(self.gpus, int) or self.gpus < 0:
            raise InputError(f"slurm: gpus_per_node must be a number of GPUs, got {self.gpus!r}")
        self.threads = parameters.get("cpus_per_task", 1)
        if not isinstance(self.threads, int) or self.threads < 1:
            raise InputError(f"slurm: cpus_per_task must be a number of cores, got {self.threads!r}")
        if not self.gpus:
            check_precision(mixed_precision, "cpu")
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(name="px_seg", **parameters)
        except (RuntimeError, TypeError, ValueError, NameError, AssertionError) as error:
            reason = one_line(error, 300) if str(error) else f"submitit rejects {dict(parameters)}"
            raise InputError(f"slurm: {reason}") from None
        self.program, self.mixed_precision = tuple(program), mixed_precision
        self.slots, self.processes = jobs or sys.maxsize, max(1, self.gpus)

    def start(self, cell: Cell, attempts: int) -> "_Submitted":
        ticket = claimed_run.with_ending(cell.notes, "slurm")
        if ticket.is_file() and self._lives(ticket.read_text()):
            return _Submitted(self._job(ticket.read_text()))
        run = command(cell, self.program, self.processes, self.gpus > 0, self.mixed_precision, self.threads)
        submitted = self.executor.submit(Beside(watched(cell, attempts, run), cell.config.to_yaml()))
        ticket.parent.mkdir(parents=True, exist_ok=True)
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

    def status(self) -> int | None:
        return None

    def stop(self) -> None:
        """Nothing: the job is Slurm's."""

    def wait(self) -> None:
        """Nothing: the job is Slurm's."""


class Beside:
    """The process beside a run, as submitit calls it: ended with the run when the job's time is up, then restarted."""

    def __init__(self, words: Sequence[str], text: str) -> None:
        self.words, self.text = list(words), text
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> int:
        status = self._once()
        if status == claimed_run.TAKEN and os.environ.get("SLURM_RESTART_COUNT"):
            # The claim may be that of this very job before its node failed.
            time.sleep(claimed_run.EXPIRES)
            status = self._once()
        return status

    def _once(self) -> int:
        self._process = subprocess.Popen(self.words, stdin=subprocess.PIPE, text=True)
        _feed(self._process, self.text)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """What submitit asks for within its `signal_delay_s` of the end: the run is stopped, and can be resumed."""
        import submitit

        if self._process is not None:
            # The signal that this answers has come while the call waits, with the lock that another wait would want.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Beside(self.words, self.text))


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
    raise InputError(
        f"{jobs} jobs cannot share {len(gpus)} GPUs evenly: choose another number of --jobs, or name some with --gpus"
    )


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_NUMBERS = ((int, r"\d+"), (float, r"\d+\.\d+"))


def slurm_parameters(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as a mapping, numbers as such. InputError for a word of another form."""
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"\w+", key):
            raise InputError(f"--slurm takes KEY=VALUE, such as timeout_min=600 or slurm_partition=gpu: got {word!r}")
        parameters[key] = next((kind(value) for kind, form in _NUMBERS if re.fullmatch(form, value)), value)
    return parameters


def _check_launch(jobs: int | None, name: str) -> None:
    if jobs is not None and not 1 <= jobs <= 1024:
        raise InputError(f"--jobs must be at least 1 and at most 1024, got {jobs}")
    if name not in PRECISIONS:
        raise InputError(f"there is no mixed precision {name!r}: choose one of {', '.join(PRECISIONS)}")
