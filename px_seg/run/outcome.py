"""What is left of a run once it has trained: its model, its pictures, and results.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from px_seg.devices import in_channels_last
from px_seg.identity import sha256_of
from px_seg.metrics import CONFUSION, without_counts
from px_seg.models import weights_in
from px_seg.pruning import Masks
from px_seg.run.best import best_of
from px_seg.run.repairing import Start
from px_seg.run.results import Whole, collect, compacted_sizes, described, pruned_by, scores_in
from px_seg.run.setup import Pruning, Setup

UNAVERAGED = "unaveraged"
"""What the scores of the weights themselves are called where those of their average are the run's."""


class Trained(NamedTuple):
    """What came of fine-tuning."""

    history: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    scores: dict[str, Any]
    """Of the network as it is now."""
    also: dict[str, dict[str, Any]]
    """The same on further lists of images."""


class Outcome(NamedTuple):
    """A run that has trained."""

    setup: Setup
    model: nn.Module
    """What is to be saved."""
    masks: Masks
    held: Masks
    """Those under which it was trained; not the same where it was compacted."""
    start: Start
    trained: Trained
    notes: Sequence[str]
    data: str
    """The fingerprint of all images."""
    whole: Whole


def record(outcome: Outcome) -> dict[str, Any]:
    """Write the model, the pictures and results.json, and return what that holds.

    Raises RuntimeError, and writes no results, where a pruned weight of the saved model is not 0.
    """
    setup = outcome.setup
    task, config, folder = setup.task, setup.config, setup.folder
    scores = outcome.trained.scores
    card = {score.name: scores[score.name] for score in scores_in(task, scores)}
    task.save(outcome.model, folder.model, {"method": config.method, "sparsity": config.sparsity, **card})
    file = weights_in(folder.model)
    saved = load_file(file)
    if revived := outcome.held.revived(saved):
        raise RuntimeError(f"pruned weights are not 0 in {folder.model}: {revived}")
    files = {path.relative_to(folder.path).as_posix(): sha256_of(path) for path in (file, folder.masks)}
    environment = {**_circumstances(outcome), "files": files, **_beside(outcome)}
    shares, seconds = without_counts(scores), _seconds(outcome)
    results = collect(task, config, shares, saved, outcome.model, outcome.whole, seconds, environment, file)
    _draw(outcome, results)
    folder.finish(results)
    return results


def _circumstances(outcome: Outcome) -> dict[str, Any]:
    """What the run started from, how it pruned, and on what it ran."""
    setup, accelerator = outcome.setup, outcome.setup.accelerator
    device = accelerator.device
    drawn = setup.source.drawn if isinstance(setup.source, Pruning) else []
    return {
        "weights_loaded": setup.loaded.summary() if setup.loaded else None,
        "notes": list(outcome.notes),
        "data_fingerprint": outcome.data,
        **pruned_by(outcome.masks, setup.config, batches=len(drawn)),
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "mixed_precision": accelerator.mixed_precision,
        "channels_last": in_channels_last(setup.config, accelerator),
        "compile": setup.config.compile,
        "deterministic": setup.config.deterministic,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
    }


def _beside(outcome: Outcome) -> dict[str, Any]:
    """What only some runs have: preservation, further lists, the weights beside their average, the best epoch."""
    config, start, (history, scores, also) = outcome.setup.config, outcome.start, outcome.trained
    found: dict[str, Any] = {}
    for key, preserved in (("preservation", start.preserved), ("preservation_repaired", start.repaired)):
        if preserved is not None:
            found[key] = preserved._asdict()
    if start.images:
        found["recalibrate_images"] = start.images
    if also:
        found["also"] = {split: without_counts(own) for split, own in also.items()}
    if UNAVERAGED in history[-1]:
        found[UNAVERAGED] = history[-1][UNAVERAGED]
    if not config.keep_best:
        # A run that was begun with it, and resumed without, has one that is no longer looked after.
        outcome.setup.folder.drop_best()
    elif (best := best_of(outcome.setup.task, outcome.setup.folder, history, config.epochs)) is not None:
        found["best"] = best
    if config.evaluate_first:
        first = next(line for line in history if line["epoch"] == 0)
        found["before_training"] = {key: value for key, value in first.items() if key in scores}
    if config.compact:
        found["compacted"] = compacted_sizes(outcome.model, outcome.setup.task) | {"left": list(start.left)}
    return found


def _seconds(outcome: Outcome) -> dict[str, float]:
    start, history = outcome.start, outcome.trained.history
    return {
        "prune": outcome.masks.provenance.seconds or 0.0,
        **({"repair": start.seconds} if outcome.setup.config.recalibrate != "none" else {}),
        "train": sum(line.get("train_seconds", 0.0) for line in history),
        "evaluate": sum(line.get("evaluate_seconds", 0.0) for line in history),
    }


def _draw(outcome: Outcome, results: Mapping[str, Any]) -> None:
    # matplotlib takes longer to import than a small run's checks.
    from px_seg import plots

    task, folder, scores = outcome.setup.task, outcome.setup.folder, outcome.trained.scores
    title = f"{described(results)}, {results['data']['name']}"
    if results["epochs"]:
        plots.curves(folder.path / "curves.png", outcome.trained.history, scores_in(task, results), title)
    plots.layer_densities(folder.path / "masks.png", outcome.masks, task.scope, title)
    task.draw(folder.path, outcome.model, scores, title)
    folder.save_counts(task.classes, scores[CONFUSION])
