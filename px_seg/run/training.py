"""Fine-tuning through Accelerate: the loop."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import DataLoaderShard
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import send_to_device, set_seed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from px_seg.config import RunConfig
from px_seg.data.loaders import Loader
from px_seg.devices import copy_from_main
from px_seg.errors import TrainingDiverged
from px_seg.progress import bar
from px_seg.pruning.compaction.narrow import Constants
from px_seg.run.optimisation import make_average, make_optimizer, make_schedule
from px_seg.tasks import Task

CHECK_EVERY = 20
"""Updates between two looks at whether the loss is finite: each look waits for the device."""


class Position(NamedTuple):
    """Where a training stands, and what this process has seen of the epoch."""

    epoch: int = 0
    """Counted from 1; 0 before the first."""
    batches: int = 0
    """Of the epoch, that have been trained with."""
    losses: tuple[float, ...] = ()
    """Of those batches."""
    rates: tuple[float, ...] = ()
    """Learning rates of the last update, backbone and head; none before the epoch's first."""
    seconds: float = 0.0
    """That training has taken in the epoch."""


class Keeper(Protocol):
    """Who is told of every update, and may save what has been done, or stop it by an exception."""

    def undisturbed(self) -> AbstractContextManager[None]:
        """Within the context nothing ends the process between two updates but what `after_update` raises."""

    def after_update(self, here: Callable[[], Position]) -> None:
        """Called on all processes at the same updates; `here` waits for the device."""


class Unkept:
    """The keeper of a training of which nothing is kept."""

    def undisturbed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def after_update(self, here: Callable[[], Position]) -> None:
        pass


@dataclass(frozen=True)
class EpochLog:
    """What one epoch of fine-tuning did: mean loss over all processes, rates of its last update."""

    epoch: int
    loss: float
    backbone_lr: float
    head_lr: float
    train_seconds: float


def log_of(accelerator: Accelerator, position: Position) -> EpochLog:
    """What the epoch that ended there did; called by all processes."""
    mean = torch.tensor(position.losses, device=accelerator.device).mean()
    backbone_lr, head_lr = position.rates
    return EpochLog(position.epoch, accelerator.reduce(mean, "mean").item(), backbone_lr, head_lr, position.seconds)


class Prepared(NamedTuple):
    """What `fine_tune` trains with, made by Accelerate for one training, and part of its checkpoints."""

    model: nn.Module
    """As Accelerate, and torch.compile, have wrapped it."""
    bare: nn.Module
    """The network itself."""
    loader: DataLoaderShard
    optimizer: Optimizer
    """The optimizer itself, which `Masks.hold` listens to."""
    stepper: Optimizer
    """The same as Accelerate wraps it."""
    schedule: AcceleratedScheduler
    kept_in_eval: tuple[nn.Module, ...]
    """Parts that training leaves so: BatchNorms whose running statistics stay as they are, or the whole backbone."""
    clip: float | None
    """Largest norm of the gradient."""
    average: AveragedModel | None = None
    """What is updated with the weights, if anything is."""


def prepare(
    accelerator: Accelerator, model: nn.Module, task: Task, loader: Loader, config: RunConfig, epochs: int
) -> Prepared:
    """Optimizer, schedule and wrappers for so many epochs of training, and the seed of what it draws.

    Converts the model's BatchNorms, in place, where the configuration synchronises them; the weights of a backbone that
    it freezes ask for no gradient from then on.
    """
    if config.sync_bn and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    kept_in_eval: list[nn.Module] = []
    if config.freeze_bn:
        kept_in_eval += [part for part in model.modules() if isinstance(part, _BatchNorm | Constants)]
    if config.freeze_encoder:
        kept_in_eval.append(model.get_submodule(task.scope).requires_grad_(False))
    optimizer = make_optimizer(model, task.scope, config.optimizer)
    wrapped, stepper = accelerator.prepare(model, optimizer)
    if config.compile:
        # After Accelerate, whose checkpoints are then those of a run without.
        wrapped = torch.compile(wrapped)
    shard = accelerator.prepare_data_loader(loader, device_placement=False)
    updates = len(shard) // accelerator.gradient_accumulation_steps * epochs
    schedule = accelerator.prepare(make_schedule(optimizer, config.schedule, max(updates, 1)))
    set_seed(config.seed, device_specific=True)
    return Prepared(wrapped, model, shard, optimizer, stepper, schedule, tuple(kept_in_eval), config.optimizer.clip)


def averaged(prepared: Prepared, config: RunConfig) -> Prepared:
    """The same with the average that is configured, if one is."""
    return prepared._replace(average=make_average(prepared.bare, config))


def fine_tune(
    accelerator: Accelerator,
    task: Task,
    prepared: Prepared,
    epochs: int,
    keeper: Keeper,
    start: Position = Position(),  # noqa: B008
) -> Iterator[Position]:
    """Train to the end of so many epochs, from `start`; the position at the end of each.

    Nothing runs until the next is asked for. The schedule advances with every update that was really made. Raises
    TrainingDiverged naming the first step whose loss is not finite; it is looked for every `CHECK_EVERY` steps, and
    wherever a position is asked for.
    """
    for epoch in range(max(start.epoch, 1), epochs + 1):
        begun = start if epoch == start.epoch else Position(epoch)
        yield _rest_of(begun, f"epoch {epoch}/{epochs}", accelerator, task, prepared, keeper)


def _rest_of(
    begun: Position, label: str, accelerator: Accelerator, task: Task, prepared: Prepared, keeper: Keeper
) -> Position:
    """Train to the end of the epoch; the position then."""
    model, loader, schedule = prepared.model, prepared.loader, prepared.schedule
    if begun.batches == len(loader):
        return begun
    model.train()
    for part in prepared.kept_in_eval:
        part.eval()
    loader.set_epoch(begun.epoch)
    losses = list(torch.tensor(begun.losses, device=accelerator.device))
    rates = begun.rates or schedule.get_last_lr()
    started = time.perf_counter()

    def here() -> Position:
        seconds = begun.seconds + time.perf_counter() - started
        return Position(begun.epoch, len(losses), _finite(losses, begun.epoch), tuple(map(float, rates)), seconds)

    left = skip_first_batches(loader, begun.batches) if begun.batches else loader
    show = accelerator.is_main_process
    batches = bar(left, desc=label, unit="batch", total=len(loader), initial=begun.batches, show=show)
    with keeper.undisturbed():
        for update in _in_groups(batches, accelerator.gradient_accumulation_steps):
            # Just before their memory is used again: freed earlier, it goes back to the system, page by page.
            prepared.optimizer.zero_grad()
            for batch, share in zip(update, _shares(accelerator, task, update), strict=True):
                packed = send_to_device(batch, accelerator.device, non_blocking=True)
                images, targets = task.train.transform.unpacked(*packed)
                with accelerator.accumulate(model):
                    loss = share * task.loss(model(images), targets)
                    accelerator.backward(loss)
                    if prepared.clip is not None and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), prepared.clip)
                    prepared.stepper.step()
                losses.append(loss.detach().float())
            if not accelerator.optimizer_step_was_skipped:
                rates = schedule.get_last_lr()
                schedule.step()
                if prepared.average is not None:
                    prepared.average.update_parameters(prepared.bare)
            if len(losses) // len(update) % CHECK_EVERY == 0:
                batches.set_postfix(loss=f"{statistics.fmean(_finite(losses, begun.epoch)):.3f}")
            before = time.perf_counter()
            keeper.after_update(here)
            started += time.perf_counter() - before
        prepared.optimizer.zero_grad()
        return here()


Batch = tuple[Tensor, Tensor]


def _in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches of every update, which `training_loader` has made whole."""
    left = iter(batches)
    while group := list(itertools.islice(left, size)):
        yield group


def _shares(accelerator: Accelerator, task: Task, update: Sequence[Batch]) -> Tensor:
    """What the mean loss of each batch of an update counts for.

    Their mean, over batches and processes, as Accelerate takes it, is then the mean over all labels of the update,
    however these are divided among them, each by the weight of its class. 1 for the only batch of a single process.
    """
    # Counted where they are: only the batch in hand is on the device.
    labels = torch.stack([task.labelled(targets.to(torch.int64)) for _, targets in update]).float()
    labels = labels.to(accelerator.device)
    total = accelerator.reduce(labels.sum(), "sum")
    return labels * (len(update) * accelerator.num_processes) / total.clamp(min=torch.finfo(total.dtype).tiny)


def _finite(losses: list[Tensor], epoch: int) -> tuple[float, ...]:
    values = torch.stack(losses)
    if not values.isfinite().all():
        step = int((~values.isfinite()).nonzero()[0]) + 1
        raise TrainingDiverged(f"the loss became {values[step - 1].item()} at epoch {epoch}, step {step}")
    return tuple(values.tolist())


def share_buffers(accelerator: Accelerator, prepared: Prepared) -> None:
    """Give every process the main one's buffers, so that all evaluate, and save, one model.

    Without SyncBatchNorm each process has its own running statistics since its last batch.
    """
    copy_from_main(accelerator, prepared.bare.buffers())
    if prepared.average is not None:
        # Not its own counter, which is the same on all and lies where no GPU's group reaches it.
        copy_from_main(accelerator, prepared.average.module.buffers())
