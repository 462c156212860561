"""How far the runs of a sweep have come, as their files say, and how long the rest will take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from px_seg.errors import InputError
from px_seg.run.folder import RunFolder
from px_seg.sweep import claimed_run
from px_seg.sweep.plan import Cell

DONE, RUNNING, FAILED, TO_DO = "done", "running", "failed", "to do"


class Status(NamedTuple):
    """How far one run has come."""

    kind: str
    """One of DONE, RUNNING (a claim on it is in force), FAILED and TO_DO."""
    results: dict[str, Any] | None = None
    """Of what is DONE, and of nothing else."""
    attempts: int = 0
    """How often it was tried."""
    holder: claimed_run.Holder | None = None
    """Who carries out what is RUNNING, and nothing else."""
    error: str = ""
    """Why it failed."""


def status_of(cell: Cell, processes: int, mixed_precision: str) -> Status:
    """How far the run has come, if it was launched with so many processes in this precision.

    Raises InputError where the folder holds a run of another configuration or launch, unless that is under way.
    """
    # First, since the files of a run under way change.
    if (holder := claimed_run.holder(cell.notes)) and not RunFolder(cell.folder).results.is_file():
        return Status(RUNNING, holder=holder)
    folder = RunFolder(cell.folder)
    results = folder.state(cell.config).results
    launched = results if results is not None else folder.began_with().get("launch", {})
    for key, asked in {"processes": processes, "mixed_precision": mixed_precision}.items():
        if launched.get(key, asked) != asked:
            raise InputError(
                f"the run in {cell.folder} was launched with {key} {launched[key]}, not {asked}: launch the sweep "
                "as before, or choose another --output_dir"
            )
    last = claimed_run.outcome(cell.notes)
    attempts = last.get("attempts", 0)
    if results is not None:
        return Status(DONE, results=results, attempts=attempts)
    if last.get("status") == claimed_run.FAILED:
        return Status(FAILED, attempts=attempts, error=last["error"])
    return Status(TO_DO, attempts=attempts)


def grid(statuses: Mapping[Cell, Status]) -> list[str]:
    """Lines of a table: finished runs of all, by what is varied and method, and by sparsity."""
    sparsities = sorted({cell.config.sparsity for cell in statuses})
    rows: dict[str, dict[float, list[bool]]] = {}
    for cell, state in statuses.items():
        name = " ".join([*(f"{key}={value}" for key, value in cell.combination), cell.method])
        rows.setdefault(name, {}).setdefault(cell.config.sparsity, []).append(state.kind == DONE)
    width = max(len(name) for name in rows)
    head = [f"{'finished':<{width}}", *(f"{f'{sparsity:.2%}':>7}" for sparsity in sparsities)]
    lines = ["  ".join(head)]
    for name, row in rows.items():
        shares = [f"{sum(row[s])}/{len(row[s])}" if s in row else "" for s in sparsities]
        lines.append("  ".join([f"{name:<{width}}", *(f"{share:>7}" for share in shares)]))
    return lines


def remaining(statuses: Mapping[Cell, Status], slots: int) -> str:
    """What is left to do, and about how long it takes, judged by the runs that are finished."""
    todo = [cell for cell, state in statuses.items() if state.kind == TO_DO]
    done = [(cell, state.results) for cell, state in statuses.items() if state.results is not None]
    kinds = [state.kind for state in statuses.values()]
    counts = [f"{kinds.count(kind)} {kind}" for kind in (DONE, RUNNING, FAILED, TO_DO)]
    text = f"{len(statuses)} runs: {', '.join(count for count in counts if not count.startswith('0 '))}"
    if not todo:
        return text
    if not done:
        return f"{text}; how long they take is known once the first has finished"
    abreast = min(slots, len(todo))
    total = sum(_expected(cell, done) for cell in todo) / abreast
    unknown = sorted({c.method for c in todo} - {c.method for c, _ in done})
    more = f", not counting pruning with {', '.join(unknown)}" if unknown else ""
    return f"{text}, about {duration(total)} with {abreast} at a time, judging by {len(done)} finished{more}"


def _expected(cell: Cell, done: Sequence[tuple[Cell, Mapping[str, Any]]]) -> float:
    """Seconds of a run: those of finished ones most like it."""
    alike = [
        lambda other: (other.combination, other.method) == (cell.combination, cell.method),
        lambda other: other.method == cell.method,
    ]
    for like in alike:
        if times := [seconds_of(other, results) for other, results in done if like(other)]:
            return mean(times)
    here = [pair for pair in done if pair[0].combination == cell.combination] or done
    return mean(seconds_of(other, results) - results["seconds"]["prune"] for other, results in here)


def seconds_of(cell: Cell, results: Mapping[str, Any]) -> float:
    """From start to end, where the sweep carried the run out; without loading and checking otherwise."""
    last = claimed_run.outcome(cell.notes)
    return last["seconds"] if last.get("status") == claimed_run.DONE else sum(results["seconds"].values())


def duration(seconds: float) -> str:
    """90 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def log_of(cell: Cell) -> Path:
    return claimed_run.with_ending(cell.notes, "log")
