"""The process that stays beside one run of a sweep: it claims the run, starts it, keeps its log and says how it ended.

It uses the standard library alone and is started by its path, so that it costs no import of torch:

    python -P px_seg/sweep/claimed_run.py NOTES FOLDER ATTEMPTS COMMAND... < CONFIGURATION

NOTES is the path, without an ending, of what is kept about the run in FOLDER. It outlives the sweep that started it,
so that a run is never without the process that renews its claim.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

BEAT = 15.0
"""Seconds between two renewals of a claim."""

EXPIRES = 180.0
"""Seconds without renewal after which a claim counts for nothing. Network file systems may show a minute-old time."""

PATIENCE = 40.0
"""Seconds that a run is given to end when it is told to; torchrun gives its processes 30 of them."""

BRIEF = 5.0
"""Seconds that it is given when another process has taken it over."""

GRACE = 1.0
"""Seconds after the end of a run in which a signal that ended both may still arrive here."""

TAKEN = 75
"""Exit status when another process holds the run, here and of the run itself."""

STOPPED = 143
"""Exit status when the run was told to end, and is to be continued."""

STOPPED_NOTE = "stopped.json"
"""What a run leaves in its folder when it was told to end and has saved its work; a launcher may swallow its status."""

BESIDE = "PX_SEG_BESIDE"
"""Environment variable by which a run knows this process, without which it is not to go on."""

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that tell a process to end: from others, from Ctrl-C, from a terminal that is closed."""

DONE, FAILED, ENDED = "done", "failed", "stopped"
"""How an attempt at a run ended: `ENDED` is from outside."""


def with_ending(notes: Path, ending: str) -> Path:
    """The file of a run with this ending; its name may itself hold dots."""
    return notes.with_name(f"{notes.name}.{ending}")


class Holder(NamedTuple):
    """Who carries out a run."""

    host: str
    process: int
    sweep: int
    """The process that started it."""

    def left_behind(self) -> bool:
        """Whether it is on this machine, and the sweep that started it no longer exists."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.sweep, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Claim:
    """The right to carry out a run, held by one process of all that share the file system.

    Claims on a run are numbered files, and the highest counts. The next is taken by creating its file, which only one
    process can, and only when there is none before it or the one before has expired. So an expired claim is
    never deleted by whoever takes the run over, and its former holder learns of it.
    """

    def __init__(self, notes: Path, path: Path) -> None:
        self.notes, self.path, self.token = notes, path, secrets.token_hex(8)
        self.renewed = time.time()

    @classmethod
    def take(cls, notes: Path) -> "Claim | None":
        """A new claim, or None while another is in force."""
        last = _last(notes)
        if last is not None and _in_force(last):
            return None
        claim = cls(notes, with_ending(notes, f"claim-{_number(last) + 1 if last else 1}"))
        about = {"token": claim.token, **Holder(socket.gethostname(), os.getpid(), os.getppid())._asdict()}
        try:
            with claim.path.open("x") as file:
                json.dump(about, file)
        except FileExistsError:
            return None
        # The expired claim may have been released since, and a third process may have taken one of the same name.
        if last is not None and _in_force(last):
            claim.path.unlink()
            return None
        return claim

    def renew(self) -> bool:
        """Say that the holder lives; whether the claim is still in force.

        A file system that does not answer is tried again until the claim would have expired.
        """
        try:
            if _last(self.notes) != self.path or json.loads(self.path.read_text())["token"] != self.token:
                return False
            os.utime(self.path)
        except (FileNotFoundError, ValueError):
            return False
        except OSError:
            return time.time() - self.renewed < EXPIRES
        self.renewed = time.time()
        return True

    def release(self) -> None:
        """Release the run, unless another process has taken it over; its own claim goes last."""
        if self.renew():
            for path in _claims(self.notes):
                path.unlink(missing_ok=True)


def holder(notes: Path) -> Holder | None:
    """Who carries out the run; None when no claim is in force."""
    last = _last(notes)
    if last is None or not _in_force(last):
        return None
    try:
        said = json.loads(last.read_text())
        return Holder(said["host"], said["process"], said["sweep"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        # Created a moment ago, and not yet written.
        return Holder("another process", 0, 0)


def _claims(notes: Path) -> list[Path]:
    found = notes.parent.glob(f"{notes.name}.claim-[0-9]*")
    return sorted((path for path in found if path.name.rpartition("-")[2].isdecimal()), key=_number)


def _last(notes: Path) -> Path | None:
    return next(reversed(_claims(notes)), None)


def _number(claim: Path) -> int:
    return int(claim.name.rpartition("-")[2])


def _in_force(claim: Path) -> bool:
    since = age(claim)
    return since is not None and since < EXPIRES


def age(path: Path) -> float | None:
    """Seconds since the file was changed, by its file system's clock, as machines' differ; None if it is gone."""
    probe = path.with_name(f".now-{secrets.token_hex(8)}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def outcome(notes: Path) -> dict[str, Any]:
    """How the last attempt at the run ended: `status`, `attempts` so far, `seconds` of all; empty before the first.

    A damaged file counts as an attempt that failed.
    """
    path = with_ending(notes, "json")
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        said = None
    sound = isinstance(said, dict) and said.get("status") in (DONE, FAILED, ENDED)
    sound = sound and all(isinstance(said.get(key), int | float) for key in ("attempts", "seconds"))
    if not sound or (said["status"] == FAILED and not isinstance(said.get("error"), str)):
        return {"status": FAILED, "attempts": 0, "seconds": 0.0, "error": f"{path} is damaged"}
    return said


def carry_out(notes: Path, folder: Path, attempts: int, command: Sequence[str], configuration: str) -> int:
    """Run the command under a claim; its exit status, TAKEN or STOPPED.

    The configuration is written to NOTES.yaml first. A run that was begun is given --resume. One that is finished is
    not run, nor is one that has failed in an attempt later than the `attempts` that are known of.
    """
    notes.parent.mkdir(parents=True, exist_ok=True)
    with termination_signals() as signals:
        claim = Claim.take(notes)
        if claim is None:
            return TAKEN
        try:
            former = outcome(notes)
            if (folder / "results.json").is_file():
                return 0
            if former.get("status") == FAILED and former["attempts"] > attempts:
                return 1
            _replace(with_ending(notes, "yaml"), configuration)
            started = time.time()
            status = _attempt(notes, folder, command, claim, signals)
            if status in (None, TAKEN):
                return TAKEN
            about = _outcome(notes, folder, status, signals)
            about["attempts"] = former.get("attempts", 0) + 1
            about["seconds"] = round(former.get("seconds", 0.0) + time.time() - started, 1)
            _replace(with_ending(notes, "json"), json.dumps(about, indent=2))
            return {DONE: 0, FAILED: status or 1, ENDED: STOPPED}[about["status"]]
        finally:
            claim.release()


def _attempt(notes: Path, folder: Path, command: Sequence[str], claim: Claim, signals: Sequence[int]) -> int | None:
    """The exit status of the run, which is ended when it is told to; None when its claim was lost."""
    words = [*command, *(["--resume"] if (folder / "config.yaml").is_file() else [])]
    (folder / STOPPED_NOTE).unlink(missing_ok=True)
    with with_ending(notes, "log").open("a") as log:
        log.write(f"\n=== {time.strftime('%F %T')} on {socket.gethostname()}: {' '.join(words)}\n")
        log.flush()
        environment = {**os.environ, BESIDE: str(os.getpid())}
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        patience = PATIENCE
        try:
            while process.poll() is None and not signals:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if time.time() - claim.renewed > BEAT and not claim.renew():
                    patience = BRIEF
                    return None
        finally:
            _end(process, patience)
    return process.returncode


def _outcome(notes: Path, folder: Path, status: int, signals: Sequence[int]) -> dict[str, Any]:
    """The record of an attempt that ended with this status."""
    about = {"status": DONE, "host": socket.gethostname()}
    if (folder / "results.json").is_file():
        return about
    until = time.monotonic() + GRACE
    while not signals and time.monotonic() < until:
        time.sleep(0.05)
    if signals or status == STOPPED or (folder / STOPPED_NOTE).is_file():
        return about | {"status": ENDED}
    error = last_words(with_ending(notes, "log")) if status else "it ended without results.json"
    return about | {"status": FAILED, "error": error}


def last_words(log: Path) -> str:
    """The error that ended the last attempt at a run: its last line that begins so, otherwise the last one of all."""
    attempt = log.read_text(errors="replace").rpartition("\n=== ")[2].partition("\n")[2]
    lines = [line.rpartition("\r")[2].strip() for line in attempt.split("\n")]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in lines if re.match(r"(\[rank \d+\] )?error: ", line)]
    return (errors or lines or ["it printed nothing"])[-1][:500]


def _end(process: subprocess.Popen, patience: float) -> None:
    """End what is left of the run and of all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    # What it started may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def termination_signals() -> Iterator[list[int]]:
    """Within the context, signals that tell this process to end are kept in the list.

    SIGUSR2 is ignored, here and by the run, which inherits that: Slurm warns all processes of a job by it, and
    whoever started this one acts on it.
    """
    signals: list[int] = []
    actions: dict[int, Any] = dict.fromkeys(ENDING, lambda number, _: signals.append(number))
    actions[signal.SIGUSR2] = signal.SIG_IGN
    former = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        yield signals
    finally:
        for number, action in former.items():
            signal.signal(number, action)


def _replace(path: Path, text: str) -> None:
    """Write a file so that either the old or the new one is there, whole, even after a power cut.

    `px_seg.files` has the same for the rest of the project, which this file does not import.
    """
    fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


if __name__ == "__main__":
    place, run, made = sys.argv[1:4]
    sys.exit(carry_out(Path(place), Path(run), int(made), sys.argv[4:], sys.stdin.read()))
