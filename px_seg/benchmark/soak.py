"""Many small runs in sweeps that share a folder, while processes are killed at random: does every run end, and once?"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from px_seg.errors import InputError
from px_seg.identity import sha256_of
from px_seg.models import weights_in
from px_seg.pruning import Masks
from px_seg.sweep import claimed_run
from px_seg.sweep.plan import NOTES

SMALLEST = (
    *("--encoder", "tu-test_resnet", "--epochs", "2", "--batch_size", "4", "--checkpoint_every", "1"),
    *("--data.size", "32", "--data.train_images", "8", "--data.val_images", "5", "--data.workers", "0"),
    *("--rounds", "2", "--pruning.batches", "1", "--pruning.batch_size", "2", "--threads", "1"),
)
"""Flags of a run that takes a second once torch is imported."""

METHODS, SPARSITIES = ("px", "random"), (0.8, 0.9)

VICTIMS = ("run", "process beside it", "sweep")
"""What is killed, each as often as the others."""


@dataclass(frozen=True)
class Soak:
    """What is carried out.

    Args:
        runs: number of runs, a multiple of 4
        sweeps: sweeps that work on them at the same time, a run of each at a time
        kill_every: mean seconds between two kills, three of four by SIGKILL and the rest by SIGTERM
        compare: runs, interrupted ones first, that are carried out again undisturbed and compared
        minutes: the soak fails when it takes longer
        seed: of what is killed, and when
    """

    runs: int = 200
    sweeps: int = 2
    kill_every: float = 10.0
    compare: int = 20
    minutes: float = 120.0
    seed: int = 0


def report_soak(case: Soak, folder: Path) -> None:
    """Carry out a soak in a folder that is new or empty, and print what came of it, a Markdown table.

    Raises InputError for a case that cannot be, RuntimeError where a run was lost, finished twice, logged an epoch
    twice, or ended other than undisturbed.
    """
    units = len(METHODS) * len(SPARSITIES)
    if case.runs < 1 or case.runs % units or case.sweeps < 1 or case.kill_every <= 0:
        raise InputError(f"--runs must be a multiple of {units}, --sweeps at least 1, and --kill_every above 0")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output {folder} is not empty: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    soak = _UnderWay(case, folder)
    started = time.monotonic()
    soak.carry_out()
    minutes = (time.monotonic() - started) / 60
    finished = soak.finished()
    attempts = {run: _attempts(folder, run) for run in finished}
    again = sum(count > 1 for count in attempts.values())
    misread = soak.misread(finished)
    differing, compared = soak.compare(sorted(finished, key=lambda run: -attempts[run]))
    kills = ", ".join(f"{soak.kills[victim]} of a {victim}" for victim in VICTIMS)
    rows = {
        "runs, sweeps at a time": f"{case.runs}, {case.sweeps}",
        "killed": f"{soak.kills.total()}: {kills}",
        "sweeps started": soak.started,
        "attempts at a run, all together and at most": f"{sum(attempts.values())}, {max(attempts.values())}",
        "runs that took more than one": again,
        "finished": len(finished),
        "finished twice": len(soak.twice),
        "with an epoch missing or logged twice": len(misread),
        "carried out again undisturbed, and other weights or masks": f"{compared}, {len(differing)}",
        "minutes": f"{minutes:.1f}",
    }
    print("| | |\n|---|---|")
    for what, value in rows.items():
        print(f"| {what} | {value} |", flush=True)
    wrong = [*soak.twice, *misread, *differing]
    if wrong or len(finished) != case.runs:
        raise RuntimeError(f"{len(finished)} of {case.runs} runs finished; not as they should: {wrong}")


class _UnderWay:
    """A soak under way."""

    def __init__(self, case: Soak, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.kills: Counter[str] = Counter()
        self.started = 0
        self.twice: set[Path] = set()
        self._written: dict[Path, tuple[int, int]] = {}
        self._random = random.Random(case.seed)

    def carry_out(self) -> None:
        """Kill and start again until every sweep has ended well."""
        until = time.monotonic() + 60 * self.case.minutes
        sweeps = [self._start() for _ in range(self.case.sweeps)]
        strike = self._next()
        try:
            while any(sweep.poll() != 0 for sweep in sweeps):
                time.sleep(0.5)
                self._look()
                # A sweep that has ended has failed runs, or was killed.
                sweeps = [self._start() if sweep.poll() not in (None, 0) else sweep for sweep in sweeps]
                if time.monotonic() > strike:
                    self._kill(sweeps)
                    strike = self._next()
                if time.monotonic() > until:
                    raise RuntimeError(f"not finished in {self.case.minutes:g} minutes: see {self.folder / 'log'}")
        finally:
            for sweep in sweeps:
                sweep.terminate()
            for sweep in sweeps:
                sweep.wait()

    def finished(self) -> list[Path]:
        """The folders of the runs that have results."""
        return sorted(path.parent for path in self.folder.rglob("results.json"))

    def misread(self, runs: Sequence[Path]) -> list[Path]:
        """Those whose log has not every epoch once."""
        logs = {
            run: [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
            for run in runs
        }
        return [run for run, epochs in logs.items() if epochs != [1, 2]]

    def compare(self, runs: Sequence[Path]) -> tuple[list[Path], int]:
        """Of the first so many runs those that end otherwise when nothing disturbs them, and how many there were."""
        chosen = runs[: self.case.compare]
        differing = []
        for number, run in enumerate(chosen):
            out = self.folder / "undisturbed" / str(number)
            flags = ("--config", run / "config.yaml", "--output_dir", out)
            with (self.folder / "log").open("a") as log:
                subprocess.run(_px_seg("seg", *flags), stdout=log, stderr=log, check=True)
            if not _same(run, out):
                differing.append(run)
        return differing, len(chosen)

    def _start(self) -> subprocess.Popen:
        self.started += 1
        seeds = self.case.runs // len(METHODS) // len(SPARSITIES)
        asked = {"methods": METHODS, "sparsities": SPARSITIES, "seeds": range(seeds), "jobs": [1], "gpus": ["none"]}
        flags = [word for key, values in asked.items() for word in (f"--{key}", ",".join(map(str, values)))]
        with (self.folder / "log").open("a") as log:
            words = _px_seg("sweep", *flags, "--retry", *SMALLEST, "--output_dir", self.folder / "sweep")
            return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def _next(self) -> float:
        return time.monotonic() + self._random.expovariate(1 / self.case.kill_every)

    def _kill(self, sweeps: Sequence[subprocess.Popen]) -> None:
        victim = self._random.choice(VICTIMS)
        if victim == "sweep":
            living = [sweep.pid for sweep in sweeps if sweep.poll() is None]
        else:
            beside = victim == "process beside it"
            living = [pid for pid, words in self._processes() if beside == (claimed_run.__file__ in words)]
        if living:
            number = self._random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
            try:
                psutil.Process(self._random.choice(living)).send_signal(number)
            except psutil.NoSuchProcess:
                # It has just ended by itself.
                return
            self.kills[victim] += 1

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """The runs of the sweeps and the processes beside them, with their command lines."""
        notes = str(self.folder / "sweep" / NOTES)
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = process.info["cmdline"] or []
            if any(word.startswith(notes) for word in words):
                yield process.info["pid"], words

    def _look(self) -> None:
        """Note the results that have been written since, and those that have been written again."""
        for run in self.finished():
            about = (run / "results.json").stat()
            seen = about.st_ino, about.st_mtime_ns
            if self._written.setdefault(run, seen) != seen:
                self.twice.add(run)


def _px_seg(*words: Any) -> list[str]:
    return [sys.executable, "-m", "px_seg", *map(str, words)]


def _attempts(folder: Path, run: Path) -> int:
    """How often a run was begun, by its log."""
    notes = folder / "sweep" / NOTES / run.relative_to(folder / "sweep")
    return claimed_run.with_ending(notes, "log").read_text().count("\n=== ")


def _same(run: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights and masks, bit for bit."""
    weights = [sha256_of(weights_in(folder / "model")) for folder in (run, other)]
    # Of the file of masks the seconds of pruning are a part.
    masks = [Masks.load(folder / "masks.safetensors") for folder in (run, other)]
    return weights[0] == weights[1] and masks[0] == masks[1]
