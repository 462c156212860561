"""A run prepared: settings, data, network and plan are known to fit together before any image is read."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from px_seg.analysis.cka import FEWEST
from px_seg.config import RunConfig, flat
from px_seg.data.fingerprints import fingerprint
from px_seg.data.loaders import Key, check_fills
from px_seg.devices import main_first, main_only, make_accelerator
from px_seg.errors import InputError, one_line
from px_seg.files import user_path
from px_seg.models import Loaded, check_weights, load_encoder
from px_seg.pruning import Criterion, Masks, Plan, TrainingCriterion
from px_seg.pruning.modes import evaluating
from px_seg.run.checkpoints import Interval
from px_seg.run.folder import OPERATIONAL, RunFolder, default_folder
from px_seg.run.given_masks import read_given_masks
from px_seg.run.optimisation import check_average, check_optimizer, check_schedule
from px_seg.run.repairing import check_recalibration, check_repairable
from px_seg.run.sparsify import check_pruning, draw_batches, make_plan, without_idle_settings
from px_seg.run.user_criteria import load_criteria
from px_seg.tasks import Task


class Pruning(NamedTuple):
    """How a run will find its masks."""

    criterion: Criterion
    plan: Plan
    drawn: list[list[Key]]
    """The samples of the batches that the criterion scores with; none if it scores without."""


class Setup(NamedTuple):
    """What a run consists of, before anything is read or written."""

    config: RunConfig
    task: Task
    model: nn.Module
    """Dense, at its start, on the CPU."""
    loaded: Loaded | None
    source: Pruning | Masks
    """Where its masks come from: a pruning, or a file that has been read."""
    folder: RunFolder
    accelerator: Accelerator


def set_up(task_type: type[Task], config: RunConfig, launch: int | None = None) -> Setup:
    """Find data, network and weights, and plan the pruning; nothing is written, and no image is read.

    With `launch` it is seen whether a launch of so many processes would do, in place of this one.
    Raises InputError for whatever does not exist or fit.
    """
    if config.criteria is not None:
        load_criteria(user_path(config.criteria, "--criteria"))
    config = without_idle_settings(config)
    criterion = check_settings(config)
    if config.output_dir is None:
        folder = RunFolder(default_folder(task_type.name, config))
    else:
        folder = RunFolder(user_path(config.output_dir, "--output_dir"))
    accelerator = make_accelerator(config, folder.path)
    processes = launch or accelerator.num_processes
    task_type.check(config, synchronised=config.sync_bn and processes > 1)
    main_only(accelerator, lambda: folder.check(config))
    main_only(accelerator, folder.check_free)
    task = main_first(accelerator, lambda: task_type(config))
    drawn = draw_batches(task, criterion, config)
    check_fills(len(task.train), config.batch_size, processes, accelerator.gradient_accumulation_steps)
    set_seed(config.seed)
    model = task.build_model()
    loaded = main_first(accelerator, lambda: load_encoder(getattr(model, task.scope), config.encoder, config.weights))
    check_repairable(task, model, config)
    source: Pruning | Masks
    if criterion is None:
        source = read_given_masks(model, task, config)
    else:
        source = Pruning(criterion, make_plan(model, task, criterion, config), drawn)
    return Setup(config, task, model, loaded, source, folder, accelerator)


def data_setting(settings: Mapping[str, Any]) -> str:
    """What of a run's settings, by their dotted names, says which images it has, wherever they lie, as text."""
    return repr(sorted((key, settings[key]) for key in settings if key.startswith("data.") and key not in OPERATIONAL))


def data_of(task: Task) -> str:
    """The fingerprint of all images of a task, by which data is known wherever it lies."""
    splits = {"train": task.train.data, "val": task.val.data, **{name: own.data for name, own in task.also.items()}}
    return fingerprint(splits)


def check_same_data(results: Mapping[str, Any], folder: Path, data: str) -> None:
    """Raise InputError where a finished run, whose results these are, had data of another fingerprint.

    Those of an earlier version do not say.
    """
    if results.get("data_fingerprint", data) != data:
        about = results.get("data")
        where = about.get("root") if isinstance(about, dict) else "a place that it does not name"
        raise InputError(
            f"the run in {folder} had other data, then at {where}: files differ in names, sizes or "
            "number; give that data with --data.root, or another --output_dir"
        )


def check_settings(config: RunConfig) -> Criterion | None:
    """Refuse what can be refused without task, data or network; the criterion that will prune, if one will."""
    check_finite(flat(asdict(config)))
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed must be at least 0 and below 2**32, got {config.seed}")
    criterion = check_pruning(config)
    check_optimizer(config.optimizer)
    check_schedule(config.schedule)
    check_average(config)
    if config.freeze_encoder and isinstance(criterion, TrainingCriterion):
        raise InputError(f"{config.method} trains the backbone, which --freeze_encoder keeps as it is: leave one out")
    if config.epochs < 0:
        raise InputError(f"epochs must be at least 0, got {config.epochs}")
    if config.evaluate_every < 1:
        raise InputError(f"evaluate_every must be at least 1 epoch, got {config.evaluate_every}")
    Interval.parse(config.checkpoint_every)
    if config.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {config.batch_size}")
    if config.gradient_accumulation is not None and config.gradient_accumulation < 1:
        raise InputError(f"gradient_accumulation must be at least 1, got {config.gradient_accumulation}")
    if config.preservation_images and config.preservation_images < FEWEST:
        raise InputError(
            f"preservation_images must be at least {FEWEST}, or 0 for no comparison, got {config.preservation_images}"
        )
    if config.data.workers < 0:
        raise InputError(f"data.workers must be at least 0, got {config.data.workers}")
    check_recalibration(config, criterion)
    check_weights(config.weights, config.encoder)
    return criterion


def check_finite(settings: Mapping[str, Any]) -> None:
    """Raise InputError for a setting, by its dotted name, that is no number, or infinite."""
    for key, value in settings.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{key} must be finite, got {number}")


def check_shapes(model: nn.Module, task: Task, config: RunConfig) -> None:
    """Raise InputError when the network cannot take a training image."""
    image, _ = task.train[0, 0]
    try:
        with evaluating(model), torch.no_grad():
            model(image[None])
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise InputError(
            f"{config.encoder} cannot take images of {image.shape[-2]}x{image.shape[-1]} pixels: {one_line(error, 160)}"
        ) from error
