"""The finished runs of a sweep, read from their folders."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from px_seg.config import flat
from px_seg.deploy import exported_scores, read_measured
from px_seg.errors import InputError
from px_seg.metrics import Score
from px_seg.pruning import CRITERIA
from px_seg.run.folder import OPERATIONAL, RunFolder
from px_seg.run.sparsify import idle_when_dense
from px_seg.sweep.methods import DENSE, criterion_of, own_keys
from px_seg.sweep.plan import NOTES, REPORT
from px_seg.tasks import TASKS, score_by

Group = tuple[str, ...]
"""What is varied beside method, sparsity and seed, as folders are named: ("weights=dino",)."""


TORCH = "torch"
"""The runtime of a network that was not exported."""

RUNTIMES = {TORCH: "torch", "onnx": "ONNX Runtime", "openvino": "OpenVINO", "int8": "OpenVINO in INT8"}
"""What carries a network out, by the format that was exported, as reports name it."""


class Cost(NamedTuple):
    """What a network costs for one batch, in torch or in another runtime."""

    milliseconds: float
    quartiles: tuple[float, float]
    """The first and the third of them."""
    dense: float
    """The dense network's milliseconds, measured in turns with it."""
    megabytes: float
    """Of its parameters in float32, or of the file that was exported."""
    flops: float
    setting: str
    """In which it was measured, as JSON."""

    @property
    def share(self) -> float:
        """Of the dense network's milliseconds."""
        return self.milliseconds / self.dense


@dataclass(frozen=True)
class Run:
    """One finished run: what its folder's name, its configuration and its results say."""

    folder: Path
    group: Group
    method: str
    """The folder's name: px-shuffled and px+ranking=erk are other methods than px."""
    config: dict[str, Any]
    """Settings by their dotted names."""
    results: dict[str, Any]
    measured: Mapping[str, Any] | None = None
    """What its networks cost, if that was measured."""
    exported: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What files that were exported of it score, by format, as `results` has it."""

    @property
    def cost(self) -> Cost | None:
        """Of the smallest of its networks in torch."""
        return self.cost_in(TORCH)

    def cost_in(self, runtime: str) -> Cost | None:
        """Of the smallest of its networks, in milliseconds beside the dense one's of the same measurement.

        `runtime` is torch or a format that was exported; None where that was not measured.
        """
        if self.measured is None:
            return None
        networks = self.measured["networks"]
        dense, small = networks["dense"], list(networks.values())[-1]
        one = small if runtime == TORCH else self.measured.get("exported", {}).get(runtime)
        if one is None:
            return None
        megabytes = 4e-6 * small["parameters"] if runtime == TORCH else one["bytes"] / 1e6
        setting = json.dumps(self.measured["setting"], sort_keys=True)
        first, third = one["quartiles"]
        return Cost(one["milliseconds"], (first, third), dense["milliseconds"], megabytes, small["flops"], setting)

    def score_in(self, runtime: str) -> float | None:
        """In torch or, where it was evaluated, of the file of that format."""
        if runtime == TORCH:
            return self.score
        return self.exported[runtime][score_by(self.results).name] if runtime in self.exported else None

    @property
    def sparsity(self) -> float:
        return self.results["sparsity"]

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def score(self) -> float:
        return self.results[score_by(self.results).name]


@dataclass(frozen=True)
class Panel:
    """The runs with one combination of varied values, and the dense ones they are compared with."""

    group: Group
    runs: list[Run]
    dense: list[Run]

    @property
    def score(self) -> Score:
        """The score by which its runs are compared."""
        return score_by((self.runs or self.dense)[0].results)

    @property
    def title(self) -> str:
        return ", ".join(self.group)

    @cached_property
    def methods(self) -> list[str]:
        """The methods that prune: px first, the others in the order of `--method`, then by name."""
        order = ["px", *CRITERIA]
        named = {run.method for run in self.runs}

        def place(name: str) -> tuple[int, str]:
            criterion = criterion_of(name)
            return order.index(criterion) if criterion in order else len(order), name

        return sorted(named, key=place)

    @cached_property
    def sparsities(self) -> list[float]:
        return sorted({run.sparsity for run in self.runs})

    @property
    def cells(self) -> list[tuple[float, str]]:
        """Sparsity and method of all that there is, the dense network first."""
        pruned = [(s, m) for s in self.sparsities for m in self.methods if self.of(m, s)]
        return [(0.0, DENSE)] * bool(self.dense) + pruned

    @cached_property
    def measured_in(self) -> str | None:
        """The setting in which most runs were measured, as JSON; None where none was."""
        counted = Counter(run.cost.setting for run in (*self.dense, *self.runs) if run.cost)
        return counted.most_common(1)[0][0] if counted else None

    def is_measured(self, run: Run, runtime: str) -> bool:
        """Whether it is known what a run costs in a runtime, in the setting of most, and what it scores there."""
        cost = run.cost_in(runtime)
        return cost is not None and cost.setting == self.measured_in and run.score_in(runtime) is not None

    @cached_property
    def runtimes(self) -> list[str]:
        """Torch, and the formats of files that were evaluated."""
        kinds = {kind for run in (*self.dense, *self.runs) for kind in run.exported}
        return [TORCH, *(kind for kind in RUNTIMES if kind in kinds)]

    @cached_property
    def also(self) -> list[str]:
        """Further lists of images that all of its runs were evaluated on."""
        all_runs = [*self.runs, *self.dense]
        named = all_runs[0].results.get("also", {})
        return [split for split in named if all(split in run.results.get("also", {}) for run in all_runs)]

    def on(self, split: str) -> "Panel":
        """The same runs by what they score on one of `also`."""

        def viewed(run: Run) -> Run:
            exported = {kind: own["also"][split] for kind, own in run.exported.items() if split in own.get("also", {})}
            return replace(run, results={**run.results, **run.results["also"][split]}, exported=exported)

        return Panel(self.group, [viewed(run) for run in self.runs], [viewed(run) for run in self.dense])

    def of(self, method: str, sparsity: float) -> list[Run]:
        """The runs of all seeds; of the dense network whatever the sparsity."""
        if method == DENSE:
            return self.dense
        return [run for run in self.runs if (run.method, run.sparsity) == (method, sparsity)]

    def scores(self, method: str, sparsity: float) -> dict[int, float]:
        """Scores by seed."""
        return {run.seed: run.score for run in self.of(method, sparsity)}


def read_runs(folder: Path) -> list[Run]:
    """The finished runs below the folder, each in .../METHOD/SPARSITY/seedN.

    Raises InputError when there is none, one is damaged or lies elsewhere, and when they are of both tasks.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    runs = []
    for results in sorted(folder.rglob("results.json")):
        place = results.parent.relative_to(folder)
        if place.parts[:1] not in ((NOTES,), (REPORT,)):
            runs.append(_read(folder, place))
    if not runs:
        raise InputError(f"there is no finished run in {folder}")
    first: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        other = first.setdefault((run.group, run.method, run.sparsity, run.seed), run)
        if other is not run:
            raise InputError(f"{other.folder} and {run.folder} are the same run: move one of them elsewhere")
    if len(tasks := {run.results["task"] for run in runs}) > 1:
        raise InputError(f"{folder} holds runs of {' and '.join(sorted(tasks))}: give each task its own folder")
    return runs


def _read(root: Path, place: Path) -> Run:
    folder = root / place
    if len(place.parts) < 3:
        raise InputError(f"the run in {folder} is not part of a sweep, whose runs lie in {root}/METHOD/SPARSITY/seedN")
    *group, method, _, _ = place.parts
    files = RunFolder(folder)
    damaged = InputError(f"the run in {folder} is damaged: delete the folder and rerun it")
    try:
        results, config = json.loads(files.results.read_text()), yaml.safe_load(files.config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        raise damaged from None
    if not isinstance(results, dict) or not isinstance(config, dict):
        raise damaged
    if missing := {"flops", "parameters", "checkpoint_bytes"} - results.keys():
        raise InputError(
            f"the run in {folder} is from an earlier version, without {', '.join(sorted(missing))}: rerun it"
        )
    if not _sound(results):
        raise damaged
    exported = exported_scores(folder)
    name = score_by(results).name
    if not all(_is_score(one.get(name)) for own in exported.values() for one in (own, *own.get("also", {}).values())):
        raise InputError(f"what was exported of the run in {folder} has damaged scores: export it again")
    return Run(folder, tuple(group), method, flat(config), results, read_measured(folder), exported)


NUMBER = (int, float)

KINDS: dict[str, Any] = {
    **dict.fromkeys(("task", "method", "encoder", "weights", "device", "mixed_precision"), str),
    **dict.fromkeys(("seed", "epochs", "rounds", "processes"), int),
    **dict.fromkeys(("sparsity", "backbone_sparsity", "model_sparsity"), NUMBER),
    "parameters": {"kept": NUMBER, "total": NUMBER},
    "flops": {"kept": NUMBER, "total": NUMBER},
    "checkpoint_bytes": {"file": NUMBER, "compressed": NUMBER},
    "seconds": {"prune": NUMBER, "train": NUMBER, "evaluate": NUMBER},
    "data": {"name": str, "classes": int, "train": int, "val": int, "size": int, "evaluation": str},
    **dict.fromkeys(("empty_layers", "notes"), list),
    "versions": dict,
}
"""What a report reads of results.json, and of which types it is."""

PRESERVATION: dict[str, Any] = {"cka": dict, "agreement": NUMBER, "error": NUMBER}
"""The same of its part of that name, where it has one."""


def _is_score(value: Any) -> bool:
    return isinstance(value, NUMBER) and math.isfinite(value)


def _sound(results: Mapping[str, Any]) -> bool:
    def fits(value: Any, kind: Any) -> bool:
        if isinstance(kind, dict):
            return isinstance(value, dict) and all(fits(value.get(key), inner) for key, inner in kind.items())
        return isinstance(value, kind) and not isinstance(value, bool)

    if not fits(results, KINDS) or results["task"] not in TASKS:
        return False
    if not _is_score(results.get(score_by(results).name)):
        return False
    others = results.get("also", {})
    if not isinstance(others, dict):
        return False
    if not all(isinstance(own, dict) and _is_score(own.get(score_by(results).name)) for own in others.values()):
        return False
    # Runs from random weights, and those of earlier versions, have none.
    found = [results.get(key) for key in ("preservation", "preservation_repaired")]
    return all(preserved is None or (fits(preserved, PRESERVATION) and bool(preserved["cka"])) for preserved in found)


def panels(runs: Sequence[Run]) -> list[Panel]:
    """The runs by what is varied, each with the dense ones that agree with it in all settings that affect them.

    Raises InputError where two different dense networks would be the reference of one.
    """
    dense = [run for run in runs if run.method == DENSE]
    pruned = [run for run in runs if run.method != DENSE]
    groups = sorted({run.group for run in pruned or dense}, key=_natural)
    found = []
    for group in groups:
        alike = {run.group for run in dense if set(run.group) <= set(group)}
        # The one that most settings affected: it has the values that another leaves to a preset.
        closest = [other for other in alike if len(other) == max(map(len, alike))]
        if len(closest) > 1:
            raise InputError(f"{', '.join(group)} has two dense references: {' and '.join(map('/'.join, closest))}")
        own = [run for run in pruned if run.group == group]
        found.append(Panel(group, own, [run for run in dense if [run.group] == closest]))
    return found


def _natural(group: Group) -> list[tuple[str, float, str]]:
    """Numbers by their value: rounds=4 before rounds=10."""
    keys = []
    for part in group:
        key, _, value = part.partition("=")
        number = numeric(value)
        keys.append((key, float("inf") if number is None else number, value))
    return keys


def numeric(value: str) -> float | None:
    """The number that the text is, if it is one."""
    try:
        return float(value)
    except ValueError:
        return None


def shared_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """The settings that all runs have in common, by dotted name."""
    first, *others = (run.config for run in runs)
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def own_settings(run: Run, shared: Mapping[str, Any]) -> dict[str, Any]:
    """What of the run's settings is not shared by all."""
    return {key: value for key, value in run.config.items() if key not in shared}


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
