"""The grid of a sweep: which runs it consists of, and that they can be carried out."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from px_seg.command_line import parse
from px_seg.config import RunConfig, flat
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.pruning import CRITERIA, Pattern
from px_seg.run.folder import OPERATIONAL
from px_seg.run.setup import check_same_data, check_settings, data_of, data_setting, set_up
from px_seg.run.sparsify import as_dense, idle_when_dense, without_idle_settings
from px_seg.run.user_criteria import BUILT_IN, load_criteria, rules_were_taught
from px_seg.sweep.methods import DENSE, Method, readable
from px_seg.tasks import presets, task_of

Combination = tuple[tuple[str, str], ...]
"""Varied values by the key of a run's configuration."""

NOTES = "sweep"
"""The folder of a sweep that holds configurations, logs and claims of its runs; not the runs themselves."""

REPORT = "report"
"""The folder of a sweep that its report is written to."""

ANALYSIS = "analysis"
"""The folder of a sweep for what is found of its networks without training."""

RESERVED = (NOTES, REPORT, ANALYSIS)
"""Folders of a sweep that hold no runs of its own."""

DECIDED = {
    "method": "give --methods",
    "sparsity": "give --sparsities",
    "seed": "give --seeds",
    "output_dir": "each run has its own folder in that of the sweep",
    "masks": "every run finds its own masks",
    "overwrite": "to rerun a run, delete its folder",
    "resume": "a run that was stopped continues by itself",
}
"""Settings of a run that the sweep decides, and what to do instead of giving one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a sweep is asked for.

    Args:
        task: by its name in `px_seg.tasks.TASKS`
        methods: criteria by name, those with settings of their own as NAME+KEY=VALUE, and dense
        sparsities: shares of the backbone's weights to prune, above 0; none where a pattern decides it
        seeds: of the runs
        flags: further flags of the run script, for all runs
        vary: values by the key of a run's configuration, `config` for the file itself; every combination is run
        output_dir: folder of the sweep
    """

    task: str
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    output_dir: Path
    flags: tuple[str, ...] = ()
    vary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a sweep."""

    combination: Combination
    """The varied values that make a difference to it."""
    folder: Path
    """Its name below the sweep's says what it is: weights=dino/px/0.9313/seed0."""
    notes: Path
    """Without an ending, which that of its configuration, log, claim or outcome follows."""
    config: RunConfig
    method: str
    """Its criterion, with the settings that are this method's own: px+ranking=erk."""

    @property
    def name(self) -> str:
        """What it is, for a line of text."""
        varied = [f"{key}={value}" for key, value in self.combination]
        method = [self.method] + ([f"{self.config.sparsity:.2%}"] if self.config.sparsity else [])
        return " ".join([*varied, *method, f"seed {self.config.seed}"])


def plan_sweep(request: Request) -> list[Cell]:
    """The runs of the sweep, seeds outermost, so that one of each is done first.

    Raises InputError for what cannot be planned, and for runs that would share a folder.
    """
    _check(request)
    methods = [Method.of(text) for text in request.methods]
    combinations = list(itertools.product(*([(key, v) for v in values] for key, values in request.vary.items())))
    pairs = [(_felt(combination, method), method) for combination in combinations for method in methods]
    plain = {felt: base_config(request, felt) for felt in dict.fromkeys(felt for felt, _ in pairs)}
    for method in methods:
        method.check()
    _check_differ([plain[felt] for felt in dict.fromkeys(felt for felt, method in pairs if method.criterion != DENSE)])
    bases = {
        (felt, method): base_config(request, (*felt, *method.settings)) if method.settings else plain[felt]
        for felt, method in pairs
    }
    cells: dict[Path, Cell] = {}
    meant: dict[str, Cell] = {}
    for seed, pair in itertools.product(request.seeds, pairs):
        for sparsity in _sparsities(request, bases[pair], pair[1]):
            cell = _cell(request, *pair, bases[pair], sparsity, seed)
            if cells.setdefault(cell.folder, cell).config != cell.config:
                raise InputError(f"two runs would share the folder {cell.folder}: name their values differently")
            same = meant.setdefault(replace(cell.config, output_dir=None).to_yaml(), cell)
            if same.method != cell.method:
                raise InputError(f"the methods {same.method} and {cell.method} mean the same run: once is enough")
    return list(cells.values())


def check_sweep(
    request: Request, cells: Sequence[Cell], processes: int, finished: Mapping[Cell, Mapping[str, Any]] | None = None
) -> None:
    """See that the runs can be carried out, before any is: the settings of each, and data and network of some.

    These are one run for each combination of varied values and of settings that methods have of their own; with a
    pattern or a granularity also those of the lowest and the highest sparsity.

    `processes` is how many will share a run, `finished` what results.json of others holds, whose data is to be the
    same. Raises InputError for what does not exist or fit.
    """
    same: dict[tuple[Combination, Combination], list[Cell]] = {}
    for cell in cells:
        check_settings(cell.config)
        same.setdefault((cell.combination, Method.of(cell.method).settings), []).append(cell)
    for (combination, _), members in same.items():
        # One that reads batches, if there is one, also shows whether the data fills them.
        checked = [next((cell for cell in members if CRITERIA[cell.config.method].needs_data), members[0])]
        if checked[0].config.pattern or checked[0].config.granularity != "weight":
            # Patterns allow no sparsity below theirs, and whole filters none that leaves less than one.
            pruned = [cell for cell in members if cell.config.sparsity]
            checked += [extreme(pruned, key=lambda cell: cell.config.sparsity) for extreme in (min, max)]
        for cell in dict.fromkeys(checked):
            data = replace(cell.config.data, download=base_config(request, combination).data.download)
            # Not in its own folder: another sweep may have started it since.
            elsewhere = str(request.output_dir / NOTES / "checked")
            made = set_up(task_of(request.task), replace(cell.config, data=data, output_dir=elsewhere), processes)
            setting = _data_setting(cell)
            if had := {other: found for other, found in (finished or {}).items() if _data_setting(other) == setting}:
                now = data_of(made.task)
                for other, results in had.items():
                    check_same_data(results, other.folder, now)


def _data_setting(cell: Cell) -> str:
    return data_setting(flat(asdict(cell.config)))


def _check_differ(bases: Sequence[RunConfig]) -> None:
    """Raise InputError where two combinations of varied values mean the same."""
    texts = [base.to_yaml() for base in bases]
    if len(set(texts)) < len(texts):
        raise InputError("two values of --vary mean the same, as 0.1 and 1e-1 do: once is enough")


def base_config(request: Request, combination: Combination) -> RunConfig:
    """What all runs with these varied values share; from then on the criteria in the file that it names are known."""
    task = task_of(request.task)
    varied = [word for key, value in combination for word in (f"--{key}", value)]
    config = parse(task.config_type, [*request.flags, *varied], presets(task), "")
    for key in ("masks", "overwrite", "resume"):
        if getattr(config, key):
            raise InputError(f"the configuration of a sweep's runs sets {key}: leave it out: {DECIDED[key]}")
    if config.criteria is not None:
        load_criteria(user_path(config.criteria, "--criteria"))
    return config


def _felt(combination: Combination, method: Method) -> Combination:
    varied = dict(combination)
    for key, _ in method.settings:
        if key in varied:
            raise InputError(f"{method.name} sets {key}, which --vary varies as well: leave one of them out")
    return tuple((key, value) for key, value in combination if not (method.criterion == DENSE and idle_when_dense(key)))


def _sparsities(request: Request, base: RunConfig, method: Method) -> tuple[float, ...]:
    if method.criterion == DENSE:
        return (0.0,)
    if base.pattern is None or Pattern.parse(base.pattern).sparsity is None:
        if not request.sparsities:
            raise InputError("no sparsity to prune to: give --sparsities, for example paper for the paper's nine")
        return request.sparsities
    if request.sparsities:
        raise InputError(f"pattern {base.pattern} means sparsity {base.sparsity:g}: leave --sparsities out")
    return (base.sparsity,)


def _cell(
    request: Request, combination: Combination, method: Method, base: RunConfig, sparsity: float, seed: int
) -> Cell:
    # Sorted, so that the order of the flags is nothing that a run depends on.
    varied = sorted(f"{key}={readable(value)}" for key, value in combination)
    path = Path(*varied, method.name, f"{sparsity:g}", f"seed{seed}")
    folder = request.output_dir / path
    # Data is fetched once, when the sweep is checked.
    data = replace(base.data, download=False)
    config = replace(base, method=method.criterion, sparsity=sparsity, seed=seed, output_dir=str(folder), data=data)
    if method.criterion in BUILT_IN and not rules_were_taught():
        config = replace(config, criteria=None)
    if config.density_from is not None:
        config = replace(config, density_from=_masks_of(request, varied, config.density_from, path))
    config = as_dense(config) if method.criterion == DENSE else without_idle_settings(config)
    return Cell(combination, folder, request.output_dir / NOTES / path, config, method.name)


def _masks_of(request: Request, varied: Sequence[str], text: str, run: Path) -> str:
    """Whose layer densities a run is to have: a path as it is; a method's run of the same sparsity and seed."""
    known = re.split(r"[+()]", text.lstrip("("))[0] in CRITERIA
    if "/" in text or (not known and user_path(text, "density_from").exists()):
        return text
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    if "(" in inner or ")" in inner:
        raise InputError(f"density_from={text} has a parenthesis too many: write density_from=(METHOD+KEY=VALUE)")
    method = Method.of(inner)
    method.check()
    return str(request.output_dir / Path(*varied, method.name, *run.parts[-2:]))


def _check(request: Request) -> None:
    """Refuse what no run's configuration would show to be wrong."""
    task_of(request.task)
    for what, values in (("methods", request.methods), ("seeds", request.seeds), *request.vary.items()):
        if not values:
            raise InputError(f"{what} has no value: give at least one")
    for what, values in (
        *(("methods", request.methods), ("sparsities", request.sparsities), ("seeds", request.seeds)),
        *request.vary.items(),
    ):
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{what} has {twice[0]} twice: once is enough")
    for sparsity in request.sparsities:
        if sparsity == 0:
            raise InputError(f"sparsity 0 is the dense network: give {DENSE} as one of the methods instead")
        if not 0 < sparsity < 1:
            raise InputError(f"a sparsity must be a share above 0 and below 1, got {sparsity:g}")
    said = [word.removeprefix("--").partition("=")[0] for word in request.flags if word.startswith("--")]
    for key in (*said, *request.vary):
        if key in DECIDED:
            raise InputError(f"--{key} is not given for runs that are compared: {DECIDED[key]}")
    for key in request.vary:
        if key in OPERATIONAL:
            raise InputError(f"--vary {key} changes how a run is carried out, not its results: leave it out")
    if both := [key for key in request.vary if key in said]:
        raise InputError(f"--{both[0]} is both given and varied: leave one of the two out")
    for method in request.methods:
        if method in RESERVED:
            raise InputError(f"a sweep needs its folder {method} for itself: register the criterion under another name")
