"""Fine-tuning through Accelerate: the loop, its optimizer and its schedule."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, PolynomialLR

from px_seg.config import OptimizerConfig, RunConfig, ScheduleConfig
from px_seg.data.loaders import Loader
from px_seg.devices import copy_from_main
from px_seg.errors import InputError, TrainingDiverged
from px_seg.progress import bar
from px_seg.pruning import Masks
from px_seg.pruning.compaction.narrow import Constants
from px_seg.tasks import Task

CHECK_EVERY = 20
"""Updates between two looks at whether the loss is finite: each look waits for the device."""


@dataclass(frozen=True)
class EpochLog:
    """What one epoch of fine-tuning did: mean loss over all processes, rates of its last update."""

    epoch: int
    loss: float
    backbone_lr: float
    head_lr: float


def make_optimizer(model: nn.Module, backbone: str, config: OptimizerConfig) -> SGD:
    """SGD over two groups: the parameters under the module `backbone`, and the others."""
    inside = [p for name, p in model.named_parameters() if name.startswith(f"{backbone}.")]
    outside = [p for name, p in model.named_parameters() if not name.startswith(f"{backbone}.")]
    return SGD(
        [{"params": inside, "lr": config.backbone_lr}, {"params": outside, "lr": config.head_lr}],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise InputError for settings that SGD refuses."""
    try:
        make_optimizer(nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)}), "backbone", config)
    except ValueError as error:
        raise InputError(f"optimizer: {error}") from None
    if min(config.backbone_lr, config.head_lr) < 0 or config.momentum >= 1:
        raise InputError("optimizer: learning rates must be at least 0, and momentum below 1")


def _multistep(optimizer: Optimizer, config: ScheduleConfig, updates: int) -> LRScheduler:
    return MultiStepLR(optimizer, [round(share * updates) for share in config.milestones], config.gamma)


def _poly(optimizer: Optimizer, config: ScheduleConfig, updates: int) -> LRScheduler:
    return PolynomialLR(optimizer, updates, config.power)


SCHEDULES = {"multistep": _multistep, "poly": _poly}


def check_schedule(config: ScheduleConfig) -> None:
    """Raise InputError for an unknown schedule and for settings that make no schedule."""
    if config.name not in SCHEDULES:
        raise InputError(f"there is no schedule {config.name!r}: choose one of {', '.join(SCHEDULES)}")
    if not all(0 < share < 1 for share in config.milestones):
        raise InputError(
            f"schedule.milestones must be shares of the training, between 0 and 1: got {config.milestones}"
        )
    if min(config.gamma, config.power) <= 0:
        raise InputError(f"schedule.gamma and schedule.power must be positive, got {config.gamma} and {config.power}")


def make_schedule(optimizer: Optimizer, config: ScheduleConfig, updates: int) -> LRScheduler:
    """The schedule that the configuration names, over a training of so many updates.

    Raises InputError as `check_schedule` does.
    """
    check_schedule(config)
    return SCHEDULES[config.name](optimizer, config, updates)


class Prepared(NamedTuple):
    """What `fine_tune` trains with, made by Accelerate for one training."""

    model: nn.Module
    loader: DataLoaderShard
    optimizer: Optimizer
    """SGD itself, which `Masks.hold` listens to."""
    stepper: Optimizer
    """The same as Accelerate wraps it."""
    schedule: LRScheduler
    freeze_bn: bool
    """Whether BatchNorm normalises with its running statistics, which then stay as they are."""


def prepare(
    accelerator: Accelerator, model: nn.Module, task: Task, loader: Loader, config: RunConfig, epochs: int
) -> Prepared:
    """Optimizer, schedule and wrappers for so many epochs of training, and the seed of what it draws.

    Converts the model's BatchNorms, in place, where the configuration synchronises them.
    """
    if config.sync_bn and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = make_optimizer(model, task.scope, config.optimizer)
    wrapped, shard, stepper = accelerator.prepare(model, loader, optimizer)
    updates = math.ceil(len(shard) / accelerator.gradient_accumulation_steps) * epochs
    schedule = make_schedule(optimizer, config.schedule, max(updates, 1))
    set_seed(config.seed, device_specific=True)
    return Prepared(wrapped, shard, optimizer, stepper, schedule, config.freeze_bn)


def train_under(
    accelerator: Accelerator,
    model: nn.Module,
    masks: Masks,
    task: Task,
    loader: Loader,
    config: RunConfig,
    epochs: int,
) -> None:
    """Train the model in place under the masks, from its start to the end of the schedule, without evaluation.

    Raises TrainingDiverged when the loss is not finite.
    """
    prepared = prepare(accelerator, model, task, loader, config, epochs)
    with masks.hold(model, prepared.optimizer):
        for _ in fine_tune(accelerator, task, prepared, range(1, epochs + 1)):
            pass
    # What Accelerate remembers of this training would be part of the next one's checkpoints.
    accelerator.free_memory()


def fine_tune(accelerator: Accelerator, task: Task, prepared: Prepared, epochs: range) -> Iterator[EpochLog]:
    """Train for the given epochs, one EpochLog each; nothing runs until the next is asked for.

    The schedule advances with every update that was really made. Raises TrainingDiverged naming the first
    step whose loss is not finite; it is looked for every `CHECK_EVERY` steps, and before an
    epoch is reported.
    """
    model, loader, _, optimizer, schedule, freeze_bn = prepared
    for epoch in epochs:
        model.train()
        if freeze_bn:
            _freeze_statistics(model)
        loader.set_epoch(epoch)
        losses: list[Tensor] = []
        rates = schedule.get_last_lr()
        batches = bar(loader, desc=f"epoch {epoch}/{epochs.stop - 1}", unit="batch", show=accelerator.is_main_process)
        for images, targets in batches:
            with accelerator.accumulate(model):
                loss = task.loss(model(images), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                rates = schedule.get_last_lr()
                schedule.step()
            losses.append(loss.detach())
            if len(losses) % CHECK_EVERY == 0:
                batches.set_postfix(loss=f"{_mean_finite(losses, epoch):.3f}")
        mean = torch.tensor(_mean_finite(losses, epoch), device=accelerator.device)
        yield EpochLog(epoch, accelerator.reduce(mean, "mean").item(), *map(float, rates))


def _freeze_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm | Constants):
            module.eval()


def _mean_finite(losses: list[Tensor], epoch: int) -> float:
    values = torch.stack(losses).float()
    if not values.isfinite().all():
        step = int((~values.isfinite()).nonzero()[0]) + 1
        raise TrainingDiverged(f"the loss became {values[step - 1].item()} at epoch {epoch}, step {step}")
    return values.mean().item()


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the main one's buffers, so that all evaluate, and save, one model.

    Without SyncBatchNorm each process has its own running statistics since its last batch.
    """
    copy_from_main(accelerator, model.buffers())
