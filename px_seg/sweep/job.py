"""The process that stays beside one run of a sweep: it claims the run, starts it, keeps its log and says how it ended.

It uses the standard library alone and is started by its path, so that it costs no import of torch:

    python -P px_seg/sweep/job.py NOTES FOLDER COMMAND...

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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

BEAT = 15.0
"""Seconds between two renewals of a claim."""

EXPIRES = 180.0
"""Seconds without renewal after which a claim counts for nothing. Network file systems may show a minute-old time."""

PATIENCE = 40.0
"""Seconds that a run is given to end when it is told to; torchrun gives its processes 30 of them."""

TAKEN = 75
"""Exit status when another process holds the run."""

STOPPED = 143
"""Exit status when the run was told to end."""


def with_ending(notes: Path, ending: str) -> Path:
    """The file of a run with this ending; its name may itself hold dots."""
    return notes.with_name(f"{notes.name}.{ending}")


class Claim:
    """The right to carry out a run, held by one process of all that share the file system.

    Claims on a run are numbered files, and the highest counts. The next is taken by creating its file, which only one
    process can, and only when there is none before it or the one before has expired. So an expired claim is
    never deleted by who takes the run over, and its former holder learns of it.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    @classmethod
    def take(cls, notes: Path) -> "Claim | None":
        """A new claim, or None while another is in force."""
        held = _claims(notes)
        if held and age(held[-1]) < EXPIRES:
            return None
        path = with_ending(notes, f"claim-{_number(held[-1]) + 1 if held else 1}")
        claim = cls(path, secrets.token_hex(8))
        try:
            with path.open("x") as file:
                json.dump({"token": claim.token, "host": socket.gethostname(), "process": os.getpid()}, file)
        except FileExistsError:
            return None
        return claim

    def renew(self, notes: Path) -> bool:
        """Say that the holder lives; whether the claim is still in force."""
        try:
            held = _claims(notes)
            if held[-1:] != [self.path] or json.loads(self.path.read_text())["token"] != self.token:
                return False
            os.utime(self.path)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def release(self, notes: Path) -> None:
        """Give the run free, unless another process has taken it over; its own claim goes last."""
        if self.renew(notes):
            for path in _claims(notes):
                path.unlink(missing_ok=True)


def holder(notes: Path) -> str | None:
    """Which host and process carry out the run; None when no claim is in force."""
    held = _claims(notes)
    try:
        if not held or age(held[-1]) >= EXPIRES:
            return None
        said = json.loads(held[-1].read_text())
        return f"{said['host']}, process {said['process']}"
    except FileNotFoundError:
        return None
    except ValueError:
        # Created a moment ago, and not yet written.
        return "another process"


def _claims(notes: Path) -> list[Path]:
    return sorted(notes.parent.glob(f"{notes.name}.claim-[0-9]*"), key=_number)


def _number(claim: Path) -> int:
    return int(claim.name.rpartition("-")[2])


def age(path: Path) -> float:
    """Seconds since the file was changed, by the clock of its file system: those of two machines may differ."""
    probe = path.with_name(f".now-{secrets.token_hex(8)}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def outcome(notes: Path) -> dict:
    """How the last attempt at the run ended, its `status` done, failed or stopped; empty before the first."""
    try:
        return json.loads(with_ending(notes, "json").read_text())
    except FileNotFoundError:
        return {}


def carry_out(notes: Path, folder: Path, command: Sequence[str]) -> int:
    """Run the command under a claim; its exit status, TAKEN or STOPPED. A run that was begun is given --resume."""
    notes.parent.mkdir(parents=True, exist_ok=True)
    claim = Claim.take(notes)
    if claim is None:
        return TAKEN
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: stopping.append(number))
    try:
        if (folder / "results.json").is_file():
            return 0
        resume = ["--resume"] if (folder / "config.yaml").is_file() else []
        former, started, beaten = outcome(notes).get("seconds", 0.0), time.time(), time.monotonic()
        with with_ending(notes, "log").open("a") as log:
            log.write(f"\n=== {time.strftime('%F %T')} on {socket.gethostname()}: {' '.join([*command, *resume])}\n")
            log.flush()
            process = subprocess.Popen(
                [*command, *resume], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            in_force = True
            while process.poll() is None and not stopping and in_force:
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    if time.monotonic() - beaten > BEAT:
                        in_force, beaten = claim.renew(notes), time.monotonic()
            status = process.poll()
            if status is None:
                _end(process)
        if not in_force:
            return TAKEN
        error = last_words(with_ending(notes, "log")) if status else ""
        if status == 0 and not (folder / "results.json").is_file():
            status, error = 1, "it ended without results.json"
        said = {0: "done", None: "stopped"}.get(status, "failed")
        about = {"status": said, "seconds": round(former + time.time() - started, 1), "host": socket.gethostname()}
        if said == "failed":
            about["error"] = error
        _replace(with_ending(notes, "json"), json.dumps(about, indent=2))
        return STOPPED if status is None else status
    finally:
        claim.release(notes)


def last_words(log: Path) -> str:
    """The error that ended the last attempt at a run: its last line that begins so, otherwise the last one of all."""
    attempt = log.read_text(errors="replace").rpartition("\n=== ")[2].partition("\n")[2]
    lines = [line.rpartition("\r")[2].strip() for line in attempt.split("\n")]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in lines if re.match(r"(\[rank \d+\] )?error: ", line)]
    return (errors or lines or ["it said nothing"])[-1][:500]


def _end(process: subprocess.Popen) -> None:
    """End the run and all that it started."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    # What it started may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(carry_out(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
