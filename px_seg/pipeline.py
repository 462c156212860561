"""One run from start to end: prune, fine-tune, evaluate, and write down what came of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from px_seg import pictures
from px_seg.config import RunConfig
from px_seg.data.loaders import Key, check_fills, evaluation_loader, pruning_batches, training_loader
from px_seg.devices import main_first, make_accelerator
from px_seg.errors import InputError, TrainingDiverged
from px_seg.models import Loaded, check_weights, load_encoder, zero_scales
from px_seg.output import TRACKED, RunFolder, default_folder, flat
from px_seg.paths import user_path
from px_seg.plugins import load_criteria
from px_seg.pruning import Criterion, Masks
from px_seg.pruning.contexts import evaluating
from px_seg.results import collect, described, pruned_by, table
from px_seg.sparsify import (
    check_plan,
    check_pruning,
    draw,
    equipped,
    reinitialise,
    resumed_masks,
    sparsify,
    try_out,
    without_idle_settings,
)
from px_seg.tasks import Task
from px_seg.tickets import given_masks, told
from px_seg.training import (
    check_optimizer,
    check_schedule,
    find_checkpoint,
    fine_tune,
    load_checkpoint,
    prepare,
    save_checkpoint,
    share_buffers,
    train_under,
)


class Ready(NamedTuple):
    """A run whose settings, data and network are known to fit together, before any image is read."""

    config: RunConfig
    task: Task
    model: nn.Module
    """Dense, at its start, on the CPU."""
    loaded: Loaded | None
    ranker: Criterion | None
    drawn: list[list[Key]]
    given: Masks | None
    folder: RunFolder
    accelerator: Accelerator


def make_ready(task_type: type[Task], config: RunConfig, launch: int | None = None) -> Ready:
    """Find data, network and weights; nothing is written, and no image is read.

    With `launch` it is seen whether a launch of so many processes would do, in place of this one.
    Raises InputError for whatever does not exist or fit.
    """
    if config.criteria is not None:
        load_criteria(user_path(config.criteria, "--criteria"))
    config = without_idle_settings(config)
    ranker = check_settings(config)
    if config.output_dir is None:
        folder = RunFolder(default_folder(task_type.name, config))
    else:
        folder = RunFolder(user_path(config.output_dir, "--output_dir"))
    accelerator = make_accelerator(config, folder.path)
    main, processes = accelerator.is_main_process, launch or accelerator.num_processes
    task_type.check(config, synchronised=config.sync_bn and processes > 1)
    main_first(accelerator, lambda: folder.check(config) if main else None)
    task = main_first(accelerator, lambda: task_type(config))
    drawn = draw(task, ranker, config)
    check_fills(len(task.train), config.batch_size, processes)
    set_seed(config.seed)
    model = task.build_model()
    loaded = main_first(accelerator, lambda: load_encoder(getattr(model, task.scope), config.encoder, config.weights))
    given = None
    if ranker is None:
        given = given_masks(model, task, config)
    else:
        check_plan(model, task, ranker, config)
    return Ready(config, task, model, loaded, ranker, drawn, given, folder, accelerator)


def check_shapes(model: nn.Module, task: Task, config: RunConfig) -> None:
    """Raise InputError when the network cannot take a training image."""
    image, _ = task.train[0, 0]
    try:
        with evaluating(model), torch.no_grad():
            model(image[None])
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{config.encoder} cannot take images of {image.shape[-2]}x{image.shape[-1]} pixels: {reason}"
        ) from error


def run(task_type: type[Task], config: RunConfig, say: Callable[[str], None] = tqdm.write) -> dict[str, Any] | None:
    """Carry out the run that `config` describes and return what its results.json holds.

    `say` is given the lines for a terminal.

    On several processes every one calls this; only the main one writes and prints, and the
    others return None. The processes stay in touch until `px_seg.devices.part`.

    Raises InputError for anything wrong with the configuration or the data, before any pruning or
    training and before anything is overwritten, and TrainingDiverged when the loss or a weight is no
    longer finite, naming the last good checkpoint.
    """
    ready = make_ready(task_type, config)
    config, task, model, ranker, folder = ready.config, ready.task, ready.model, ready.ranker, ready.folder
    accelerator = ready.accelerator
    main, processes = accelerator.is_main_process, accelerator.num_processes
    train_loader = training_loader(task.train, config.batch_size, config.seed, config.data.workers, processes)
    val_loader = evaluation_loader(
        task.val, config.batch_size, config.data.workers, accelerator.process_index, processes
    )
    notes = main_first(accelerator, lambda: task.check_data() if main else [])
    notes += zero_scales(getattr(model, task.scope)) + (told(ready.given, config) if ready.given else [])
    check_shapes(model, task, config)
    if main:
        for line in [f"weights: {ready.loaded or 'none, the backbone starts random'}", *notes]:
            say(line)
    model.to(accelerator.device)
    task.fit_head(model, accelerator)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)

    def train(network: nn.Module, masks: Masks, epochs: int | None) -> None:
        try:
            train_under(accelerator, network, masks, task, train_loader, config, epochs or config.epochs)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}, of a training by which {config.method} prunes") from None

    if ready.given is None:
        masks = _masks(model, task, equipped(ranker, task, train), ready.drawn, folder, config, accelerator)
    else:
        masks = _opened_with(ready.given, folder, config, accelerator)
    if config.reinit:
        reinitialise(model, task, config)

    if config.tracker:
        settings = {
            key: value if isinstance(value, int | float | str) else str(value)
            for key, value in flat(asdict(config)).items()
        }
        accelerator.init_trackers(TRACKED, settings)
    history, scores = _fine_tune(accelerator, model, task, train_loader, val_loader, masks, folder, config, say)
    for tracker in accelerator.trackers:
        tracker.finish()
    if not main:
        return None

    card = {"method": config.method, "sparsity": config.sparsity, **{name: scores[name] for name in task.metrics}}
    task.save(model, folder.model, card)
    file = folder.model / "model.safetensors"
    saved = load_file(file)
    if revived := masks.revived(saved):
        raise RuntimeError(f"pruned weights are not 0 in {folder.model}: {revived}")
    seconds = {
        "prune": float(masks.metadata["seconds"]),
        "train": sum(line.get("train_seconds", 0.0) for line in history),
        "evaluate": sum(line["evaluate_seconds"] for line in history),
    }
    environment = {
        "weights_loaded": ready.loaded.summary() if ready.loaded else None,
        "notes": notes,
        **pruned_by(masks, config, batches=len(ready.drawn)),
        "processes": processes,
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
    }
    if config.evaluate_first:
        start = next(line for line in history if line["epoch"] == 0)
        environment["before_training"] = {key: value for key, value in start.items() if key in scores}
    results = collect(task, config, scores, saved, model, seconds, environment, file)
    summary = table(task, results, folder.path)
    _draw(task, model, masks, folder, history, results)
    folder.finish(results)
    say(summary)
    return results


def check_settings(config: RunConfig) -> Criterion | None:
    """Refuse what can be refused without task, data or network; the criterion that will rank, if one will."""
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed must be at least 0 and below 2**32, got {config.seed}")
    ranker = check_pruning(config)
    check_optimizer(config.optimizer)
    check_schedule(config.schedule)
    if config.epochs < 0:
        raise InputError(f"epochs must be at least 0, got {config.epochs}")
    if config.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {config.batch_size}")
    if config.data.workers < 0:
        raise InputError(f"data.workers must be at least 0, got {config.data.workers}")
    check_weights(config.weights, config.encoder)
    return ranker


def _masks(
    model: nn.Module,
    task: Task,
    ranker: Criterion,
    drawn: list[list[Key]],
    folder: RunFolder,
    config: RunConfig,
    accelerator: Accelerator,
) -> Masks:
    """The run's masks, found, or read on a run that is resumed; opens the folder once the criterion works."""
    batches = pruning_batches(task.train, drawn, accelerator.process_index, accelerator.num_processes)
    main = accelerator.is_main_process
    main_first(accelerator, lambda: try_out(model, task, batches, ranker, config) if main else None)
    main_first(accelerator, lambda: folder.open(config) if main else None)
    if config.resume and folder.masks.is_file():
        return resumed_masks(model, folder, task, config)
    return sparsify(model, task, batches, ranker, folder, config, accelerator)


def _opened_with(masks: Masks, folder: RunFolder, config: RunConfig, accelerator: Accelerator) -> Masks:
    """The same masks, written to the opened folder. InputError where a run to be resumed had others."""

    def write() -> None:
        folder.open(config)
        if config.resume and folder.masks.is_file() and Masks.load(folder.masks) != masks:
            raise InputError(f"the run in {folder.path} began with other masks than {config.masks} holds now")
        masks.save(folder.masks)

    main_first(accelerator, lambda: write() if accelerator.is_main_process else None)
    return masks


def _fine_tune(
    accelerator: Accelerator,
    model: nn.Module,
    task: Task,
    train_loader: DataLoader,
    val_loader: DataLoader,
    masks: Masks,
    folder: RunFolder,
    config: RunConfig,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train under the masks, evaluating, logging and checkpointing after every epoch.

    The lines of metrics.jsonl, and the last scores. With no epoch to train, the pruned network
    is evaluated as it is.
    """
    prepared = prepare(accelerator, model, task, train_loader, config, config.epochs)
    accelerator.register_for_checkpointing(prepared.schedule)
    checkpoint = find_checkpoint(accelerator, folder.checkpoint) if config.resume else None
    done = load_checkpoint(accelerator, checkpoint) if checkpoint else 0
    # Without a checkpoint nothing counts, an evaluation before training neither.
    history = folder.history(until=done or -1) if accelerator.is_main_process else []

    scores: dict[str, Any] = {}

    def evaluate(line: dict[str, Any]) -> None:
        started = time.perf_counter()
        share_buffers(accelerator, model)
        scores.update(task.evaluate(model, val_loader, accelerator.device))
        line |= scores
        line["evaluate_seconds"] = time.perf_counter() - started
        history.append(line)
        if accelerator.is_main_process:
            folder.log(line)
            say(_line(line, config.epochs, task.metrics))
        accelerator.log({k: v for k, v in line.items() if isinstance(v, int | float)}, step=line["epoch"])

    with masks.hold(model, prepared.optimizer):
        if config.epochs == 0 or (config.evaluate_first and not done):
            # The loader draws a seed, which would move the dropout of the training that follows.
            with torch.random.fork_rng(devices=[]):
                evaluate({"epoch": 0})
        try:
            started = time.perf_counter()
            epochs = range(done + 1, config.epochs + 1)
            for log in fine_tune(accelerator, task, prepared, epochs):
                line = asdict(log) | {"train_seconds": time.perf_counter() - started}
                evaluate(line)
                save_checkpoint(accelerator, model, masks, log.epoch, folder.checkpoint)
                started = time.perf_counter()
        except TrainingDiverged as error:
            kept = f"the last good checkpoint is {folder.checkpoint}"
            if not folder.checkpoint.exists():
                kept = f"no epoch was completed; the masks are in {folder.masks}"
            raise TrainingDiverged(f"{error}; {kept}") from None
        if not scores:
            # A run that was stopped after its last epoch: the checkpoint holds the trained model.
            scores.update(task.evaluate(model, val_loader, accelerator.device))
    return history, scores


def _draw(
    task: Task,
    model: nn.Module,
    masks: Masks,
    folder: RunFolder,
    history: list[dict[str, Any]],
    results: Mapping[str, Any],
) -> None:
    title = f"{described(results)}, {results['data']['name']}"
    if results["epochs"]:
        pictures.curves(folder.path / "curves.png", history, task.metrics, title)
    pictures.layer_densities(folder.path / "masks.png", masks, task.scope, title)
    task.draw(folder.path, model, title)


def _line(line: Mapping[str, Any], epochs: int, metrics: Sequence[str]) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}"]
    if "loss" in line:
        parts.append(f"loss {line['loss']:.3f}")
    parts += [f"{pictures.label(name)} {line[name]:.2%}" for name in metrics]
    return "  ".join([*parts, f"{line.get('train_seconds', 0) + line['evaluate_seconds']:.0f} s"])
