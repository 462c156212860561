"""Networks of finished runs on the runs' own validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from px_seg.command_help import keys_of
from px_seg.command_line import parse
from px_seg.config import RunConfig
from px_seg.data.loaders import Transformed, evaluation_loader
from px_seg.data.normalisation import IMAGENET
from px_seg.data.registry import without_training
from px_seg.deploy.card import Card, read_card, run_of
from px_seg.errors import InputError
from px_seg.metrics import without_counts
from px_seg.progress import bar
from px_seg.run.results import scores_in
from px_seg.tasks import Task, presets, task_of
from px_seg.tasks.base import VALIDATION, check_parts, further
from px_seg.text import columns


class Images(NamedTuple):
    """The images of a finished run, and what they are for."""

    task: Task
    config: RunConfig


class Row(NamedTuple):
    """One network of a table."""

    scores: Mapping[str, Any]
    """As results.json has them, those on further lists of images under `also`."""
    bytes: int
    """Of its file or files."""
    difference: float | None = None
    """Of its logits from those of torch, as a share of the largest."""


def images_of(folder: Path, flags: Sequence[str] = ()) -> Images:
    """The data of a finished run, as the run had it but for what `flags` say, which are settings of a run.

    Raises InputError where they are not there, cannot be used, or are no longer those that the run was evaluated on.
    """
    images = _found(folder, _config(folder, flags))
    return _noted(images, images.task.check_data())


def validation_of(folder: Path, flags: Sequence[str] = ()) -> Images:
    """The same of the validation images and further lists; those of training need not be there, and may be others."""
    config = _config(folder, flags)
    elsewhere = any(flag.partition("=")[0] == "--data.images" for flag in flags)
    images = _found(folder, replace(config, data=without_training(config.data, elsewhere)))
    task = images.task
    lists = {VALIDATION: task.val.data, **further({split: own.data for split, own in task.also.items()})}
    return _noted(images, check_parts(type(task), images.config, lists))


def _noted(images: Images, notes: Sequence[str]) -> Images:
    for note in notes:
        print(note)
    return images


def _config(folder: Path, flags: Sequence[str]) -> RunConfig:
    """Of the run, but for what the flags say. InputError for flags that it has not, and where its file is missing."""
    kind = task_of(read_card(folder).task)
    file = run_of(folder) / "config.yaml"
    if not file.is_file():
        raise InputError(f"{file} is missing, which says what images the run had: give the run's whole folder")
    # Where masks came from is of no use here, and may be gone.
    known = keys_of(kind.config_type)
    for flag in flags:
        if flag.startswith("--") and (key := flag.removeprefix("--").partition("=")[0]) not in known:
            group = ", ".join(name for name in known if name.startswith(f"{key.partition('.')[0]}."))
            raise InputError(f"a run of the task {kind.name} has no {key}: it has {group or 'nothing of that kind'}")
    return parse(kind.config_type, ["--config", str(file), "--masks", "null", *flags], presets(kind))


def _found(folder: Path, config: RunConfig) -> Images:
    """What the configuration names. InputError where it is not there, or does not fit the run's network."""
    card = read_card(folder)
    kind = task_of(card.task)
    kind.check(config, synchronised=True)
    task = kind(config)
    if tuple(task.classes) != card.classes:
        pairs = zip_longest(task.classes, card.classes)
        number, (now, then) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"the images have other classes than those of the run in {folder}: class {number} is {now}, and there "
            f"{then}; names and order have to be the same"
        )
    had = card.normalisation or IMAGENET
    if task.normalisation != had:
        raise InputError(
            f"the run in {folder} had its images normalised by {had}, and its weights {config.weights} "
            f"now take {task.normalisation}: put these back where they were"
        )
    return Images(task, config)


def data_root(folder: str | None) -> list[str]:
    """The flags of a run whose data now lies in a folder; none where it lies where it did."""
    return [] if folder is None else ["--data.root", folder]


def evaluate(images: Images, model: nn.Module, device: str, what: str) -> dict[str, Any]:
    """What the task's `evaluate` says of a network on the validation images, and on the further lists under `also`.

    `what` is for the progress bar.
    """
    task, config = images.task, images.config

    def scores(data: Transformed, on: str) -> dict[str, Any]:
        loader = evaluation_loader(data, config.batch_size, config.data.workers, 0, 1)
        # A task asks a loader for its batches and for nothing else.
        with bar(loader, desc=f"evaluating {what}{on}", unit="batch") as batches:
            return without_counts(task.evaluate(model, batches, torch.device(device)))  # type: ignore[arg-type]

    found = scores(task.val, "")
    also = {split: scores(data, f" on {split}") for split, data in task.also.items()}
    return {**found, **({"also": also} if also else {})}


def table(images: Images, rows: Mapping[str, Row]) -> str:
    """The networks in lines, for a terminal."""
    heads = ["", "MB", "logits differ by"]
    lines: list[list[str]] = []
    for name, row in rows.items():
        lists = {"": row.scores, **{f" on {split}": own for split, own in row.scores.get("also", {}).items()}}
        shown = {
            f"{score.label}{on}": score.text(own[score.name])
            for on, own in lists.items()
            for score in scores_in(images.task, own)
        }
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        lines.append([name, f"{row.bytes / 1e6:.2f}", difference, *shown.values()])
        heads[3:] = shown
    return columns([heads, *lines])


def check_same(card: Card, found: Card, file: Path, folder: Path) -> None:
    """Raise InputError where a file is of another task, classes or normalisation of images than a run."""
    had = card.normalisation or IMAGENET
    if found.normalisation != had:
        raise InputError(f"{file} takes images normalised by {found.normalisation}, and the run in {folder} by {had}")
    if found.task != card.task or found.classes != card.classes:
        theirs, ours = (f"{len(one.classes)} classes ({', '.join(one.classes[:3])}, ...)" for one in (found, card))
        raise InputError(f"{file} is of a {found.task} network of {theirs}, and the run in {folder} has {ours}")
