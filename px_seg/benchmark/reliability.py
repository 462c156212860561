"""What being able to resume costs, and whether memory stays flat over long runs."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from px_seg.command_line import parse
from px_seg.config import SegmentationConfig
from px_seg.cost import clock
from px_seg.data.loaders import training_loader
from px_seg.devices import Agreement
from px_seg.errors import InputError
from px_seg.pruning import PX, Random, prune
from px_seg.run.checkpoints import Checkpoints
from px_seg.run.pipeline import run
from px_seg.run.training import Unkept, fine_tune, prepare
from px_seg.tasks import Segmentation, presets

EPOCH = 20
"""Updates of an epoch, after each of which there is an evaluation and a checkpoint, and memory is read."""

POINTS = 8
"""Rows of a table of memory."""


@dataclass(frozen=True)
class Case:
    """What is measured: DeepLabV3+ from random weights, on synthetic images.

    Args:
        encoder: backbone, as segmentation-models-pytorch names it
        side: height and width of the images, in pixels
        batch_size: images of an update
        threads: CPU threads
    """

    encoder: str = "resnet18"
    side: int = 64
    batch_size: int = 4
    threads: int = 1

    def config(self, *flags: object) -> SegmentationConfig:
        """Of a run of this case. InputError for what cannot be run."""
        data = ("--data.size", self.side, "--data.train_images", EPOCH * self.batch_size, "--data.val_images", 8)
        words = ("--encoder", self.encoder, "--batch_size", self.batch_size, "--threads", self.threads, *data, *flags)
        return parse(SegmentationConfig, [str(word) for word in words], presets(Segmentation), "")


def report_memory(case: Case, updates: int, rounds: int) -> None:
    """Print the resident memory of this process over a run of so many updates and a pruning of so many rounds.

    Two Markdown tables. The run is a whole one, with loading, evaluation and checkpoints; the pruning is by PX, over
    two batches.
    """
    if updates < EPOCH * POINTS or rounds < POINTS:
        raise InputError(f"--updates must be at least {EPOCH * POINTS} and --rounds at least {POINTS}")
    for what, seen in (("update", _over_updates(case, updates)), ("round of pruning", _over_rounds(case, rounds))):
        print(f"| {what} | resident memory, MiB | less the first row's |\n|---:|---:|---:|")
        numbers = sorted(seen)
        chosen = [numbers[round((len(numbers) - 1) * part / (POINTS - 1))] for part in range(POINTS)]
        for number in chosen:
            print(f"| {number} | {seen[number]:.0f} | {seen[number] - seen[chosen[0]]:+.0f} |")
        print(flush=True)


def _over_updates(case: Case, updates: int) -> Mapping[int, float]:
    """MiB after every epoch, by the number of updates until then."""
    seen: dict[int, float] = {}

    def hear(line: str) -> None:
        if line.startswith("epoch "):
            epoch = int(line.removeprefix("epoch ").partition("/")[0])
            seen[epoch * EPOCH] = _resident()

    with tempfile.TemporaryDirectory() as folder:
        flags = ("--method", "random", "--epochs", updates // EPOCH, "--output_dir", Path(folder) / "run")
        run(Segmentation, case.config(*flags, "--checkpoint_every", 100), hear)
    return seen


def _over_rounds(case: Case, rounds: int) -> Mapping[int, float]:
    """MiB after every round."""
    seen: dict[int, float] = {}

    class Watched(PX):
        def score(self, *given: Any, **named: Any) -> dict[str, Tensor]:
            scores = super().score(*given, **named)
            seen[len(seen) + 1] = _resident()
            return scores

    torch.set_num_threads(case.threads)
    task = Segmentation(case.config())
    model = task.build_model()
    batches = [torch.randn(case.batch_size, 3, case.side, case.side) for _ in range(2)]
    prune(model, batches, 0.98, Watched(), task.scope, rounds)
    return seen


def _resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def report_checkpoints(case: Case, repeats: int) -> None:
    """Print what a checkpoint takes, in milliseconds, updates and megabytes, as a Markdown table."""
    if repeats < 1:
        raise InputError(f"--repeats must be at least 1, got {repeats}")
    torch.set_num_threads(case.threads)
    config = case.config("--epochs", 2)
    task, accelerator = Segmentation(config), Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    model = task.build_model()
    masks = prune(model, (), 0.9, Random(), task.scope)
    loader = training_loader(task.train, config.batch_size, 0, 0)
    prepared = prepare(accelerator, model, task, loader, config, 2)
    with tempfile.TemporaryDirectory() as name, masks.hold(model, prepared.optimizer):
        folder = Path(name) / "checkpoint"
        checkpoints = Checkpoints(accelerator, folder, print, Agreement(accelerator))
        *_, last = fine_tune(accelerator, task, prepared, 2, Unkept())

        def write() -> None:
            checkpoints.write(prepared, masks, last, {})

        write()
        times = [clock(accelerator.device, write)[0] for _ in range(repeats)]
        size = sum(path.stat().st_size for path in folder.iterdir())
    written, update = median(times), last.seconds / EPOCH
    print("| | |\n|---|---:|")
    print(
        f"| {case.encoder}, {case.batch_size} images of {case.side} pixels, CPU threads: {case.threads}; an update, ms "
        f"| {1000 * update:.0f} |"
    )
    print(f"| a checkpoint, with fsync and SHA-256, ms, median of {repeats} | {1000 * written:.0f} |")
    print(f"| the same in updates | {written / update:.1f} |")
    print(f"| the same of ten minutes, one interval | {written / 600:.2%} |")
    print(f"| its size, MB | {size / 1e6:.0f} |")
