"""Carrying out a sweep: what is missing is started, what ends is reported, and what others carry out is waited for."""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from accelerate import PartialState

from px_seg.errors import InputError
from px_seg.metrics import Score
from px_seg.sweep.claimed_run import STOPPED, TAKEN, Holder, termination_signals
from px_seg.sweep.launchers import Job, Launcher
from px_seg.sweep.plan import NOTES, REPORT, Cell, Request, check_sweep, plan_sweep
from px_seg.sweep.status import (
    DONE,
    FAILED,
    TO_DO,
    Status,
    duration,
    grid,
    log_of,
    remaining,
    seconds_of,
    status_of,
)
from px_seg.tasks import task_of

LOOK = 0.5
"""Seconds between two looks at the runs under way."""

LOOK_ELSEWHERE = 5.0
"""Seconds between two looks at runs that others carry out."""


class Outcome(NamedTuple):
    """What became of a sweep."""

    done: list[Cell]
    """Runs that are finished, now or before."""
    unfinished: list[Cell]
    """Runs that failed, now or before, and those that were stopped."""


def say_at_once(line: str) -> None:
    """Print a line, also into a file or a pipe, before the next run begins."""
    print(line, flush=True)


def run_sweep(
    request: Request,
    launcher: Launcher,
    retry: bool = False,
    dry_run: bool = False,
    say: Callable[[str], Any] = say_at_once,
) -> Outcome:
    """Carry out what is missing of the sweep.

    A run is done when its results.json is complete and its configuration the one asked for. One that is claimed by
    another sweep in the same folder is waited for. Failed ones are tried again if `retry` says so. With
    `dry_run` everything is checked and nothing started. `say` is given the lines for a terminal.

    Raises InputError for what cannot be planned or does not fit, and for a folder that holds runs of another
    configuration, before anything is started; KeyboardInterrupt after Ctrl-C, or when the process is told to end,
    once the runs of this sweep have ended.
    """
    _check_folder(request)
    # The GPUs are the runs': checking them needs none.
    PartialState(cpu=True)
    cells = plan_sweep(request)

    def look(cell: Cell) -> Status:
        return status_of(cell, launcher.processes, launcher.mixed_precision)

    statuses = {cell: look(cell) for cell in cells}
    if retry:
        statuses = {c: state._replace(kind=TO_DO) if state.kind == FAILED else state for c, state in statuses.items()}
    finished = {cell: state.results for cell, state in statuses.items() if state.results is not None}
    check_sweep(request, _of(statuses, TO_DO), launcher.processes, finished)
    left = remaining(statuses, launcher.slots)
    for line in [f"sweep in {request.output_dir}", *grid(statuses), left]:
        say(line)
    if dry_run:
        return Outcome(*(_of(statuses, kind) for kind in (DONE, FAILED)))
    with termination_signals() as signals:
        unfinished = _carry_out(statuses, launcher, look, task_of(request.task).scores[0], signals, say)
    if signals:
        raise KeyboardInterrupt
    for cell in unfinished:
        say(f"not finished: {cell.name}: {look(cell).error or 'stopped'} (log: {log_of(cell)})")
    if any(look(cell).kind == FAILED for cell in unfinished):
        say("failed runs are tried again with --retry")
    return Outcome([cell for cell in cells if cell not in unfinished], unfinished)


def _check_folder(request: Request) -> None:
    """Raise InputError where the sweep's folder cannot be written, or holds the runs of another task."""
    for folder in (request.output_dir, request.output_dir / NOTES, request.output_dir / REPORT):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise InputError(f"--output_dir {request.output_dir} cannot be used: {nearest} is a file, not a folder")
        if not os.access(nearest, os.W_OK):
            raise InputError(f"--output_dir {request.output_dir} cannot be written: choose another folder")
    if (request.output_dir / "config.yaml").is_file():
        raise InputError(f"--output_dir {request.output_dir} is the folder of a run: give the sweep one of its own")
    for results in request.output_dir.glob("**/seed*/results.json"):
        task = re.search(r'"task": "(\w+)"', results.read_text(errors="replace"))
        if task and task[1] != request.task:
            raise InputError(
                f"{request.output_dir} holds runs of the task {task[1]}: give each task its own --output_dir"
            )


def _of(statuses: Mapping[Cell, Status], kind: str) -> list[Cell]:
    return [cell for cell, state in statuses.items() if state.kind == kind]


def _carry_out(
    statuses: Mapping[Cell, Status],
    launcher: Launcher,
    look: Callable[[Cell], Status],
    score: Score,
    signals: Sequence[int],
    say: Callable[[str], Any],
) -> list[Cell]:
    """Carry out what is to do, until all has ended or this process is told to end; what failed or was stopped."""
    waiting, failed = deque(_of(statuses, TO_DO)), _of(statuses, FAILED)
    elsewhere = {cell: state.holder for cell, state in statuses.items() if state.holder is not None}
    active: list[tuple[Cell, Job]] = []
    not_before: dict[Cell, float] = {}
    done, looked, last_said = len(_of(statuses, DONE)), time.monotonic(), ""

    def settle(cell: Cell, status: int | None, ours: bool) -> None:
        nonlocal done
        state = look(cell)
        if state.results is not None:
            done += 1
            say(f"{done} of {len(statuses)}: {cell.name}: {_came_to(cell, state.results, score)}")
        elif state.holder is not None:
            elsewhere[cell] = state.holder
        elif state.kind == FAILED:
            failed.append(cell)
            say(f"{cell.name} failed: {state.error}")
        elif not ours or status == TAKEN:
            waiting.append(cell)
            not_before[cell] = time.monotonic() + (LOOK_ELSEWHERE if ours else 0)
        elif status == STOPPED:
            waiting.append(cell)
            say(f"{cell.name} was stopped from outside: it is continued")
        else:
            failed.append(cell)
            abandoned = f"was abandoned: the process beside it ended with status {status}"
            say(f"{cell.name} {'ended without an outcome' if status is None else abandoned}")

    try:
        while (waiting or active or elsewhere) and not signals:
            # Runs that a killed sweep left behind on this machine still take its room.
            room = launcher.slots - sum(holder.left_behind() for holder in elsewhere.values())
            while len(active) < room and not signals:
                cell = next((cell for cell in waiting if not_before.get(cell, 0) <= time.monotonic()), None)
                if cell is None:
                    break
                waiting.remove(cell)
                active.append((cell, launcher.start(cell, statuses[cell].attempts)))
            time.sleep(LOOK)
            ended = [(cell, job) for cell, job in active if job.ended()]
            active = [pair for pair in active if pair not in ended]
            for cell, job in ended:
                settle(cell, job.status(), ours=True)
            if elsewhere and time.monotonic() - looked > LOOK_ELSEWHERE:
                others, looked = list(elsewhere), time.monotonic()
                elsewhere.clear()
                for cell in others:
                    settle(cell, None, ours=False)
                line = f"waiting for runs of other processes: {_names(elsewhere)}"
                if elsewhere and not active and not waiting and line != last_said:
                    say(line)
                    last_said = line
    finally:
        for _, job in active:
            job.stop()
        for _, job in active:
            job.wait()
    return failed


def _came_to(cell: Cell, results: Mapping[str, Any], score: Score) -> str:
    return f"{score.label} {score.text(results[score.name])} in {duration(seconds_of(cell, results))}"


def _names(elsewhere: Mapping[Cell, Holder]) -> str:
    return "; ".join(f"{cell.name} ({held.host}, process {held.process})" for cell, held in elsewhere.items())
