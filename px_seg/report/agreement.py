"""Whether the files of a finished run agree with each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from px_seg.errors import InputError
from px_seg.identity import sha256_of
from px_seg.report.runs import Run
from px_seg.run.folder import RunFolder
from px_seg.run.setup import data_setting
from px_seg.tasks import TASKS, score_by

SAME = ("method", "sparsity", "seed", "epochs", "encoder", "weights")
"""What results.json and config.yaml both say."""


def check_agreement(folder: Path, results: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise InputError where a run's results are not of its configuration, its place in a sweep or its own log.

    `config` is flat. The folder is .../METHOD/SPARSITY/seedN.
    """
    for key in SAME:
        if results[key] != config.get(key):
            raise _disagree(folder, f"results.json has {key} {results[key]}, config.yaml {config.get(key)}")
    method, sparsity, seed = folder.parts[-3:]
    placed = (method.partition("+")[0], sparsity, seed)
    if placed != (results["method"], f"{results['sparsity']:g}", f"seed{results['seed']}"):
        raise _disagree(
            folder, f"it holds a run of {results['method']} at {results['sparsity']:g} with seed {results['seed']}"
        )
    for score in TASKS[results["task"]].scores:
        if not 0 <= results.get(score.name, 0) <= 1:
            raise _disagree(folder, f"results.json has {score.name} {results[score.name]}, which is from 0 to 1")
    name = score_by(results).name
    logged = [line[name] for line in RunFolder(folder).history() if name in line]
    if logged and logged[-1] != results[name]:
        raise _disagree(folder, f"results.json has {name} {results[name]}, and metrics.jsonl ends with {logged[-1]}")


def check_copies(runs: Sequence[Run]) -> None:
    """Raise InputError for two runs that trained and ended with the same weights: one is a copy of the other."""
    first: dict[str, Run] = {}
    for run in runs:
        files: Mapping[str, str] = run.results.get("files", {})
        trained = next((digest for file, digest in files.items() if file.startswith("model/")), None)
        if trained is not None and run.results["epochs"]:
            other = first.setdefault(trained, run)
            if other is not run:
                raise InputError(
                    f"the runs in {other.folder} and {run.folder} ended with the same weights, bit for bit: one is a "
                    "copy of the other, delete it"
                )


def check_one_dataset(runs: Sequence[Run]) -> None:
    """Raise InputError for two runs of one setting of their data that did not have the same files.

    By `data_fingerprint` in results.json, which those of an earlier version do not have.
    """
    first: dict[str, Run] = {}
    for run in runs:
        if found := run.results.get("data_fingerprint"):
            other = first.setdefault(data_setting(run.config), run)
            if other.results["data_fingerprint"] != found:
                raise InputError(
                    f"the runs in {other.folder} and {run.folder} had different images, at {_root(other)} and "
                    f"{_root(run)}: delete those of one"
                )


def _root(run: Run) -> str:
    return str(run.results["data"].get("root"))


def changed_files(runs: Sequence[Run]) -> list[str]:
    """Notes for a reader on files that are gone, or are not those that results.json was written with."""
    gone, changed = [], []
    for run in runs:
        for name, digest in run.results.get("files", {}).items():
            file = run.folder / name
            if not file.is_file():
                gone.append(str(file))
            elif sha256_of(file) != digest:
                changed.append(str(file))
    notes = []
    if changed:
        notes.append(f"not the files that were evaluated, by their SHA-256: {', '.join(changed)}")
    if gone:
        notes.append(f"files of runs that are gone: {', '.join(gone)}")
    return notes


def _disagree(folder: Path, how: str) -> InputError:
    return InputError(f"the run in {folder} does not agree with itself ({how}): restore its files, or delete it")
