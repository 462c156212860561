"""The finished runs of a sweep, and those of them that are compared with each other."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.errors import InputError
from px_seg.metrics import Score
from px_seg.pruning import CRITERIA
from px_seg.sweep.methods import DENSE, criterion_of
from px_seg.tasks import score_by

Group = tuple[str, ...]
"""What is varied beside method, sparsity and seed, as folders are named: ("weights=dino",)."""


TORCH = "torch"
"""The runtime of a network that was not exported."""

RUNTIMES = {
    TORCH: "torch",
    "onnx": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "openvino": "OpenVINO",
    "int8": "OpenVINO in INT8",
}
"""What carries a network out, as it is measured, and as reports name it."""

FORMATS = {runtime: "onnx" if runtime == "tensorrt" else runtime for runtime in RUNTIMES if runtime != TORCH}
"""The format of the file that each takes, whose scores are known once it was evaluated in one of them."""


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

        `runtime` is one of RUNTIMES; None where that was not measured.
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
        """In torch or, where it was evaluated, of the file that the runtime takes."""
        if runtime == TORCH:
            return self.score
        kind = FORMATS[runtime]
        return self.exported[kind][score_by(self.results).name] if kind in self.exported else None

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
        """Torch, and those that take files that were evaluated, a second one of the same file where it was measured."""
        runs = [*self.dense, *self.runs]
        evaluated = {kind for run in runs for kind in run.exported}
        shown = {one for one, kind in FORMATS.items() if one == kind or any(run.cost_in(one) for run in runs)}
        return [TORCH, *(one for one, kind in FORMATS.items() if one in shown and kind in evaluated)]

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
