"""Tickets across tasks: masks found on one task, tried on all the others.

Every cell of the task-by-task matrix is an ordinary run in a folder of its own. That of a task with itself prunes;
the others in its row start from its masks. With a ridge head and an evaluation before training, as the presets have
it, a cell shows what the masks are worth before and after fine-tuning.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.config import ClassificationConfig, TransferConfig
from px_seg.devices import broadcast_from_main, main_only, make_accelerator
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.progress import print_line
from px_seg.run.folder import RunFolder, State, default_folder
from px_seg.run.pipeline import run
from px_seg.run.setup import check_same_data, data_of, set_up
from px_seg.run.sparsify import as_dense, without_idle_settings
from px_seg.tasks import Classification
from px_seg.termination import Termination

DENSE = "dense"
"""The row of the network that is not pruned."""

TASK = Classification

SCORE = TASK.scores[0]

WRITTEN = ("cells.csv", "before_training.csv", "after_training.csv", "transfer.png")
"""What a study writes beside its cells."""


class Cell(NamedTuple):
    """One run of the study; `source` is `DENSE` for the network that is not pruned."""

    source: str
    target: str
    config: ClassificationConfig


class Outcome(NamedTuple):
    """Accuracies of one cell, and the share of the backbone's weights that were pruned."""

    source: str
    target: str
    backbone_sparsity: float
    before: float | None
    after: float


def study(config: TransferConfig, termination: Termination | None = None) -> list[Outcome] | None:
    """Carry out what is missing of the study, and write its tables and its picture.

    A study that was stopped goes on; cells that are finished are read. `termination` is as `run` takes it. On several
    processes every one calls this; all but the main one return None. Raises InputError, before anything is run, for
    tasks that do not fit the data, and for a folder that holds cells of another configuration.
    """
    _check(config)
    if config.output_dir is None:
        folder = default_folder("transfer", config)
    else:
        folder = user_path(config.output_dir, "--output_dir")
    # Masks are identified by their path, however the folder is spelt when the study is asked for again.
    folder = folder.resolve()
    cells = _cells(config, folder)
    accelerator = make_accelerator(config, folder)
    # One look for all: another process would see what the main one has finished in the meantime.
    states = broadcast_from_main(accelerator, lambda: [_state(cell.config, config.overwrite) for cell in cells])
    for cell, state in zip(cells, states, strict=True):
        if cell.config.masks is None and state.results is None:
            data = replace(cell.config.data, download=config.data.download)
            set_up(TASK, replace(cell.config, data=data, overwrite=config.overwrite, resume=state.begun))
    main_only(accelerator, lambda: _check_data(cells, states))
    for cell in cells:
        main_only(accelerator, _folder(cell.config).check_free)
    if config.overwrite:
        main_only(accelerator, lambda: _clear(cells, folder))
    if accelerator.is_main_process and config.weights == "none":
        print_line(
            "weights none: the heads are fitted on the features of a random network; give a trained one with --weights"
        )
    outcomes = []
    for number, (cell, state) in enumerate(zip(cells, states, strict=True), start=1):
        results = state.results
        if results is None:
            results = run(TASK, replace(cell.config, resume=state.begun), say=_quiet, termination=termination)
        if results is not None and accelerator.is_main_process:
            outcomes.append(_outcome(cell, results))
            print_line(f"{number} of {len(cells)}: {_said(outcomes[-1])}")
    if not accelerator.is_main_process:
        return None
    targets = list(config.tasks) if config.targets is None else config.targets
    write(
        outcomes,
        targets,
        folder,
        f"{config.method}, {config.sparsity:.2%} pruned, {config.data.name}, {config.encoder}",
    )
    print_line(f"written to {folder}")
    return outcomes


def write(outcomes: Sequence[Outcome], targets: Sequence[str], folder: Path, title: str) -> None:
    """cells.csv, a line a cell; before_training.csv and after_training.csv, a row a source; transfer.png, both.

    The tables have the columns `targets`; that a source was tried on itself even where it is none of them shows in
    cells.csv alone.
    """
    from px_seg.plots import heat_maps

    sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
    with (folder / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Outcome._fields, *outcomes])
    panels = {}
    for when, key in (("before training", "before"), ("after training", "after")):
        found = {(o.source, o.target): getattr(o, key) for o in outcomes}
        if None in found.values():
            continue
        rows = [[found[source, target] for target in targets] for source in sources]
        with (folder / f"{when.replace(' ', '_')}.csv").open("w", newline="") as file:
            named = [[source, *row] for source, row in zip(sources, rows, strict=True)]
            csv.writer(file).writerows([["pruned on", *targets], *named])
        panels[f"{SCORE.label} {when}"] = rows
    heat_maps(folder / "transfer.png", panels, sources, targets, SCORE, title)


def _state(config: ClassificationConfig, overwrite: bool) -> State:
    return State(False, None) if overwrite else _folder(config).state(config)


def _check_data(cells: Sequence[Cell], states: Sequence[State]) -> None:
    """Raise InputError where a finished cell had data other than there is now."""
    now: dict[str, str] = {}
    for cell, state in zip(cells, states, strict=True):
        if state.results is not None:
            data = now.get(cell.target) or now.setdefault(cell.target, data_of(TASK(cell.config)))
            check_same_data(state.results, _folder(cell.config).path, data)


def _folder(config: ClassificationConfig) -> RunFolder:
    """A cell's own, which its configuration always names."""
    assert config.output_dir is not None
    return RunFolder(Path(config.output_dir))


def _clear(cells: Sequence[Cell], folder: Path) -> None:
    for cell in cells:
        _folder(cell.config).clear()
    for name in WRITTEN:
        (folder / name).unlink(missing_ok=True)


def _cells(config: TransferConfig, folder: Path) -> list[Cell]:
    """The runs in the order in which they can be carried out."""
    sources = list(config.tasks) if config.sources is None else config.sources
    targets = list(config.tasks) if config.targets is None else config.targets

    def cell(source: str, target: str, **changes: Any) -> Cell:
        own = {key.name: getattr(config, key.name) for key in fields(ClassificationConfig)}
        place = str(folder / source / target)
        data = replace(config.data, classes=config.tasks[target], download=False)
        run_config = ClassificationConfig(
            **own | {"data": data, "output_dir": place, "resume": False, "overwrite": False} | changes
        )
        return Cell(source, target, run_config)

    cells = [Cell(DENSE, target, as_dense(cell(DENSE, target).config)) for target in targets]
    for source in sources:
        cells.append(cell(source, source))
        masks = str(folder / source / source / "masks.safetensors")
        given: dict[str, Any] = {"masks": masks, "pattern": None, "keep_dense": [], "shuffle_masks": False}
        cells += [cell(source, target, **given) for target in targets if target != source]
    return [Cell(*cell[:2], without_idle_settings(cell.config)) for cell in cells]


def _check(config: TransferConfig) -> None:
    if config.sparsity == 0:
        raise InputError("a transfer study needs masks: give a method and a sparsity above 0")
    if config.masks is not None or config.data.classes is not None:
        raise InputError("a transfer study finds its masks itself, on its tasks: leave masks and data.classes out")
    if not config.tasks:
        raise InputError("tasks names no task: give each a name and its classes")
    for name in config.tasks:
        if not isinstance(name, str) or not re.fullmatch(r"[\w -]+", name) or name == DENSE:
            raise InputError(f"a task's name has letters, digits, spaces, - or _, and is not {DENSE!r}: got {name!r}")
    if config.overwrite and config.resume:
        raise InputError("--overwrite and --resume contradict each other: give one of them")
    for key in ("sources", "targets"):
        named = getattr(config, key)
        if named is not None and (not named or len(set(named)) < len(named)):
            raise InputError(f"{key} names no task, or one twice: choose from {', '.join(config.tasks)}")
        for name in named or []:
            if name not in config.tasks:
                raise InputError(f"{key} names {name!r}, which is not a task: choose from {', '.join(config.tasks)}")


def _outcome(cell: Cell, results: dict[str, Any]) -> Outcome:
    before = results.get("before_training", {}).get(SCORE.name)
    return Outcome(cell.source, cell.target, results["backbone_sparsity"], before, results[SCORE.name])


def _said(outcome: Outcome) -> str:
    before = "" if outcome.before is None else f"{SCORE.text(outcome.before)} before training, "
    network = "dense" if outcome.source == DENSE else f"pruned on {outcome.source}"
    return f"{network}, tried on {outcome.target}: {before}{SCORE.text(outcome.after)} after"


def _quiet(_: str) -> None:
    """A cell's own lines are for its folder."""
