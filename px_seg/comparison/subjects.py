"""The networks to compare: those that methods prune, and those that finished runs pruned."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from px_seg.command_line import parse
from px_seg.comparison.kind import Key
from px_seg.config import RunConfig, flat, with_defaults
from px_seg.errors import InputError
from px_seg.files import parse_json
from px_seg.pruning import CRITERIA, TrainingCriterion
from px_seg.run.folder import OPERATIONAL, RunFolder
from px_seg.run.setup import check_settings
from px_seg.run.sparsify import IDLE_WHEN_DENSE, as_dense
from px_seg.sweep.methods import DENSE, Method, readable
from px_seg.sweep.plan import RESERVED, Request, plan_sweep
from px_seg.tasks import TASKS, presets, task_of

OF_TRAINING = (
    *("epochs", "evaluate_first", "freeze_bn", "freeze_encoder", "sync_bn", "batch_size"),
    *("gradient_accumulation", "ema", "compile", "deterministic"),
)
"""Settings of a run that say how it trains."""


@dataclass(frozen=True)
class Subject:
    """One network to compare."""

    method: str
    """As a sweep names it: with the settings that are its own."""
    config: RunConfig
    """Of the run whose start it has; in its folder there is nothing, and nothing is written."""
    run: Path | None = None
    """The finished run that it is of, whose masks it has; None where they are to be found."""

    @property
    def key(self) -> Key:
        """Method, sparsity and seed."""
        return self.method, self.config.sparsity, self.config.seed


def of_methods(request: Request, with_dense: bool) -> list[Subject]:
    """What the request of a sweep asks for, by method, sparsity and seed; before them, if asked for, the dense network.

    Raises InputError for what cannot be compared without training.
    """
    if request.vary:
        raise InputError("a comparison varies methods, sparsities and seeds alone: leave --vary out")
    if DENSE in request.methods:
        raise InputError("every network is compared with the dense one: leave dense out")
    if 0 in request.sparsities:
        raise InputError("a sparsity of 0 is the dense network, which all are compared with: leave it out")
    cells = plan_sweep(request)
    methods = [Method.of(text) for text in request.methods]
    for method in methods:
        if issubclass(CRITERIA[method.criterion], TrainingCriterion):
            raise InputError(f"{method.name} trains to find its masks, and a comparison trains nothing: leave it out")
    if any(cell.config.reinit for cell in cells):
        raise InputError("new weights after pruning have nothing of the dense network: leave --reinit out")
    for cell in cells:
        check_settings(cell.config)
    order = [method.name for method in methods]
    cells = sorted(cells, key=lambda cell: (order.index(cell.method), cell.config.sparsity))
    found = [Subject(cell.method, cell.config) for cell in cells]
    return [*(_dense(found) if with_dense else []), *found]


def of_runs(folders: Sequence[Path], task: str | None, output_dir: Path, with_dense: bool) -> list[Subject]:
    """Networks of finished runs, given by their own folders or by those of sweeps; the dense one as in `of_methods`.

    `task` is that of all runs where it is known. Raises InputError for what is no finished run or has no masks, two
    runs of one method, sparsity and seed, and runs whose start or data differ by their settings.
    """
    found: dict[Key, Subject] = {}
    for folder, name in (run for given in folders for run in _runs_in(given)):
        subject = _of_run(folder, name, task, output_dir)
        task = task_named(subject)
        other = found.setdefault(subject.key, subject)
        if other is not subject:
            raise InputError(
                f"{other.run} and {folder} are both runs of {subject.method} at {subject.config.sparsity:g} with "
                f"seed {subject.config.seed}: leave one out"
            )
    subjects = list(found.values())
    first = shared(subjects[0].config)
    for subject in subjects:
        own = shared(subject.config)
        if key := next((key for key in {**first, **own} if first.get(key) != own.get(key)), None):
            raise InputError(
                f"the runs in {subjects[0].run} and {subject.run} are not of one network and data: {key} is "
                f"{first.get(key)} and {own.get(key)}: compare them apart"
            )
    pruned = [subject for subject in subjects if subject.method != DENSE]
    if not pruned:
        raise InputError(f"{folders[0]} holds dense runs alone, without masks: name a run that prunes")
    order = {method: number for number, method in enumerate(dict.fromkeys(subject.method for subject in pruned))}
    pruned.sort(key=lambda subject: (order[subject.method], *subject.key[1:]))
    return [*(_dense(pruned) if with_dense else []), *pruned]


def _dense(subjects: Sequence[Subject]) -> Iterator[Subject]:
    """The dense network that each seed's begin as."""
    for subject in {subject.config.seed: subject for subject in subjects}.values():
        config = replace(as_dense(replace(subject.config, masks=None)), reinit=False)
        yield Subject(DENSE, config)


def alike(config: RunConfig) -> dict[str, Any]:
    """What decides the rows of all networks that have these settings, by dotted name.

    Where the data lies does not, nor how one trains.
    """
    return {
        key: value
        for key, value in flat(asdict(config)).items()
        if key not in (*OPERATIONAL, *OF_TRAINING, "criteria") and not key.startswith(("optimizer.", "schedule."))
    }


def usual(config: RunConfig) -> dict[str, Any]:
    """The defaults of those settings that have one, by dotted name: what a file of before they came stands for."""
    parts: dict[str, dict[str, Any]] = {
        field.name: {} for field in fields(config) if is_dataclass(getattr(config, field.name))
    }
    return flat(with_defaults(parts, config))


def shared(config: RunConfig) -> dict[str, Any]:
    """The same of networks that differ in how they are pruned: the start and the data."""
    own = (*IDLE_WHEN_DENSE, "method", "sparsity", "seed", "masks", "reinit")
    return {key: value for key, value in alike(config).items() if key.partition(".")[0] not in own}


def _runs_in(folder: Path) -> list[tuple[Path, str | None]]:
    """The finished runs that a folder is, or holds below it, the latter with the names that a sweep has for methods."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name that of a finished run, or of a sweep")
    if RunFolder(folder).results.is_file():
        return [(folder, None)]
    found = [
        path.parent
        for path in sorted(folder.rglob("results.json"))
        if path.relative_to(folder).parts[0] not in RESERVED
    ]
    if not found:
        raise InputError(f"there is no finished run in {folder}: a run is finished once it has its results.json")
    return [(run, run.parts[-3] if len(run.relative_to(folder).parts) > 2 else None) for run in found]


def _of_run(folder: Path, name: str | None, task: str | None, output_dir: Path) -> Subject:
    """The network of a finished run: its start, and its masks. `name` is what its sweep calls the method."""
    files = RunFolder(folder)
    try:
        results = parse_json(files.results.read_text())
        own, pruned = results["task"], bool(results["sparsity"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{files.results} cannot be read: restore it, or run that run again") from None
    if task is not None and own != task:
        raise InputError(f"{folder} is a run of the task {own}, not {task}: compare the two apart")
    if pruned and not files.masks.is_file():
        raise InputError(f"the run in {folder} has no {files.masks.name}: restore it, or run that run again")
    task_type = task_of(own)
    words = ["--config", str(files.config), *(["--masks", str(files.masks)] if pruned else [])]
    config = parse(task_type.config_type, words, presets(task_type))
    method = name or _name_of(config, results.get("masks"))
    masked = replace(
        config,
        output_dir=str(output_dir / method / f"{config.sparsity:g}" / f"seed{config.seed}"),
        overwrite=False,
        resume=False,
        rounds=None,
        ranking=None,
        pattern=None,
        granularity="weight",
        density_from=None,
        keep_dense=[],
        shuffle_masks=False,
        recalibrate_rounds=False,
        pruning=replace(config.pruning, settings={}),
    )
    return Subject(method, masked, folder)


def _name_of(config: RunConfig, given: str | None) -> str:
    """The run's method as a sweep would name it, by what of its own settings is not the usual.

    `given` is the path of the masks that it did not find itself, if it did not.
    """
    if not config.sparsity:
        return DENSE
    usual = {field.name: field.default for field in fields(config)}
    said = {
        key: getattr(config, key)
        for key in IDLE_WHEN_DENSE
        if key not in ("pruning", "keep_dense") and getattr(config, key) != usual[key]
    }
    said |= {"keep_dense": config.keep_dense} if config.keep_dense else {}
    said |= {"reinit": True} if config.reinit else {}
    said |= {"masks": given} if given else {}
    for key in ("masks", "density_from"):
        if key in said:
            said[key] = _source(said[key])
    said |= {f"pruning.settings.{key}": value for key, value in config.pruning.settings.items()}
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in said.items()}
    return "+".join([config.method, *(f"{key}={readable(texts[key])}" for key in sorted(texts))])


def _source(path: str) -> str:
    """What masks are called that come from a run or a file: in a sweep by their method."""
    parts = Path(path.removesuffix("/masks.safetensors")).parts
    in_sweep = len(parts) > 2 and re.fullmatch(r"seed\d+", parts[-1])
    return parts[-3] if in_sweep else parts[-1]


def task_named(subject: Subject) -> str:
    """The name of the task that a subject's network is for."""
    return next(name for name, task in TASKS.items() if isinstance(subject.config, task.config_type))


def results_of(subject: Subject) -> Mapping[str, Any]:
    """What the results.json of a subject's run holds; nothing where it is of none."""
    if subject.run is None:
        return {}
    held: Mapping[str, Any] = parse_json(RunFolder(subject.run).results.read_text())
    return held
