"""Carrying out a sweep: what is missing is started, what ends is reported, and what others carry out is waited for."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelerate import PartialState

from px_seg.pictures import label
from px_seg.results import main_score
from px_seg.sweep.launchers import Job, Launcher
from px_seg.sweep.plan import Cell, Request, check, plan
from px_seg.sweep.standing import (
    DONE,
    FAILED,
    RUNNING,
    TO_DO,
    Standing,
    duration,
    grid,
    log_of,
    remaining,
    seconds_of,
    standing,
)

LOOK = 0.5
"""Seconds between two looks at the runs under way."""

LOOK_ELSEWHERE = 5.0
"""Seconds between two looks at runs that others carry out."""


class Outcome(NamedTuple):
    """What became of a sweep."""

    done: int
    """Runs that are finished, now or before."""
    unfinished: list[Cell]
    """Runs that failed, now or before, and those that were stopped."""


def say_at_once(line: str) -> None:
    """Print a line, also into a file or a pipe, before the next run begins."""
    print(line, flush=True)


def conduct(
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
    # The GPUs are the runs': checking them needs none.
    PartialState(cpu=True)
    cells = plan(request)

    def look(cell: Cell) -> Standing:
        return standing(cell, launcher.processes, launcher.mixed_precision)

    standings = [look(cell) for cell in cells]
    if retry:
        standings = [state._replace(kind=TO_DO) if state.kind == FAILED else state for state in standings]
    todo = [(cell, state) for cell, state in zip(cells, standings, strict=True) if state.kind == TO_DO]
    check(request, [cell for cell, _ in todo], [state.begun for _, state in todo])
    for line in [
        f"sweep in {request.output_dir}",
        *grid(cells, standings),
        remaining(cells, standings, launcher.slots),
    ]:
        say(line)
    by_kind = {
        kind: [cell for cell, state in zip(cells, standings, strict=True) if state.kind == kind]
        for kind in (DONE, RUNNING, FAILED, TO_DO)
    }
    if dry_run:
        return Outcome(len(by_kind[DONE]), by_kind[FAILED])
    with _told_to_end():
        unfinished = _carry_out(by_kind, launcher, look, len(cells), say)
    for cell in unfinished:
        say(f"not finished: {cell.name}: {look(cell).about or 'stopped'} (log: {log_of(cell)})")
    if any(look(cell).kind == FAILED for cell in unfinished):
        say("failed runs are tried again with --retry")
    return Outcome(len(cells) - len(unfinished), unfinished)


def _carry_out(
    by_kind: dict[str, list[Cell]],
    launcher: Launcher,
    look: Callable[[Cell], Standing],
    total: int,
    say: Callable[[str], Any],
) -> list[Cell]:
    waiting, elsewhere, failed = deque(by_kind[TO_DO]), deque(by_kind[RUNNING]), list(by_kind[FAILED])
    active: dict[int, tuple[Cell, Job]] = {}
    done, started, looked, told = len(by_kind[DONE]), 0, time.monotonic(), ""

    def settle(cell: Cell, ours: bool) -> None:
        nonlocal done
        state = look(cell)
        if state.kind == DONE:
            done += 1
            say(f"{done} of {total}: {cell.name}: {_told(cell, state.results)}")
        elif state.kind == RUNNING:
            elsewhere.append(cell)
        elif state.kind == FAILED:
            failed.append(cell)
            say(f"{cell.name} failed: {state.about}")
        elif ours:
            failed.append(cell)
            say(f"{cell.name} was stopped from outside")
        else:
            waiting.append(cell)

    try:
        while waiting or active or elsewhere:
            while waiting and len(active) < launcher.slots:
                cell = waiting.popleft()
                active[started] = cell, launcher.start(cell)
                started += 1
            time.sleep(LOOK)
            for number in [number for number, (_, job) in active.items() if job.ended()]:
                settle(active.pop(number)[0], ours=True)
            if elsewhere and time.monotonic() - looked > LOOK_ELSEWHERE:
                for _ in range(len(elsewhere)):
                    settle(elsewhere.popleft(), ours=False)
                if elsewhere and not active and not waiting:
                    others = f"waiting for runs of others: {_listed(elsewhere, look)}"
                    if others != told:
                        say(others)
                    told = others
                looked = time.monotonic()
    finally:
        for _, job in active.values():
            job.stop()
        for _, job in active.values():
            job.wait()
    return failed


def _told(cell: Cell, results: Mapping[str, Any]) -> str:
    name = main_score(results)
    return f"{label(name)} {results[name]:.2%} in {duration(seconds_of(cell, results))}"


def _listed(cells: Iterable[Cell], look: Callable[[Cell], Standing]) -> str:
    return "; ".join(f"{cell.name} ({look(cell).about})" for cell in cells)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Within the context, being told to end, or losing the terminal, is Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    former = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
