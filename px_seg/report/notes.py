"""What a reader of a report must know before comparing."""

import json
from collections.abc import Sequence

from px_seg.report.runs import RUNTIMES, TORCH, Panel, Run
from px_seg.run.folder import OPERATIONAL
from px_seg.run.sparsify import idle_when_dense
from px_seg.sweep.methods import DENSE, own_keys


def _own(run: Run, key: str) -> bool:
    """Whether a setting comes with the run's method, so that it may differ from other runs' without a word."""
    without_file = key == "criteria" and run.config.get(key) is None
    return without_file or (run.method == DENSE and idle_when_dense(key)) or key in own_keys(run.method)


def caveats(all_panels: Sequence[Panel]) -> list[str]:
    """What a reader must know before comparing: settings and machines that differ where only the method should."""
    notes = []
    for panel in all_panels:
        where = f"{panel.title}: " if panel.title else ""
        members = [*panel.runs, *panel.dense]
        for key in sorted({key for run in members for key in run.config}):
            if key in (*OPERATIONAL, "method", "sparsity", "seed"):
                continue
            felt = [run for run in members if not _own(run, key)]
            values = {json.dumps(run.config.get(key)) for run in felt}
            if len(values) > 1:
                notes.append(f"{where}not all runs have the same {key}: {', '.join(sorted(values))}")
        launched = {
            key: {str(run.results[key]) for run in members} for key in ("device", "mixed_precision", "processes")
        }
        # Under one name there may have been other weights; those of random ones are each run's own.
        loaded = [run.results.get("weights_loaded") for run in members]
        launched["weights"] = {
            f"{own['source']}, digest {own['digest']}" for own in loaded if isinstance(own, dict) and "digest" in own
        }
        said = [run.results["normalisation"] for run in members if "normalisation" in run.results]
        launched["normalisation"] = {json.dumps(own) for own in said}
        quantised = [run.exported["int8"] for run in members if "int8" in run.exported]
        launched["number of INT8 calibration images"] = {str(own["calibration"]) for own in quantised}
        launched["range of INT8 weights"] = {own["weight_range"] for own in quantised}
        # Data may lie elsewhere on another machine, or be other data.
        launched["data.root"] = {str(run.config.get("data.root")) for run in members}
        for key, values in launched.items():
            if len(values) > 1:
                notes.append(f"{where}not all runs have the same {key.replace('_', ' ')}: {', '.join(sorted(values))}")
        notes += [f"{where}{note}" for note in _unmeasured(panel)]
        wanted = {run.seed for run in members}
        for method in [*([DENSE] if panel.dense else []), *panel.methods]:
            for sparsity in [0.0] if method == DENSE else panel.sparsities:
                lacking = wanted - panel.scores(method, sparsity).keys()
                if lacking:
                    notes.append(f"{where}{_cell(method, sparsity)} lacks seed {', '.join(map(str, sorted(lacking)))}")
    return notes


def _cell(method: str, sparsity: float) -> str:
    return method if method == DENSE else f"{method} at {sparsity:.2%}"


def _unmeasured(panel: Panel) -> list[str]:
    """What the milliseconds of a panel leave out."""
    if panel.measured_in is None:
        return []
    usual, notes = json.loads(panel.measured_in), []
    for setting in sorted({run.cost.setting for run in (*panel.dense, *panel.runs) if run.cost} - {panel.measured_in}):
        own = json.loads(setting)
        keys = [key for key in {**usual, **own} if usual.get(key) != own.get(key)]
        differs = ", ".join(f"{key} {own.get(key)} and not {usual.get(key)}" for key in keys)
        notes.append(f"milliseconds measured in another setting than most are left out: {differs}")
    for runtime in panel.runtimes:
        lacking = [
            _cell(method, sparsity)
            for sparsity, method in panel.cells
            if not all(panel.is_measured(run, runtime) for run in panel.of(method, sparsity))
        ]
        where = "" if runtime == TORCH else f" in {RUNTIMES[runtime]}"
        if lacking:
            notes.append(f"not all seeds were measured{where}, so it has no milliseconds here: {', '.join(lacking)}")
    return notes
