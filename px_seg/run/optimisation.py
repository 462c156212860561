"""Optimizers, schedules and the average of the weights, as a run's configuration names them."""

from collections.abc import Callable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from px_seg.config import OptimizerConfig, RunConfig, ScheduleConfig
from px_seg.errors import InputError

Groups = list[dict[str, object]]


def _sgd(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov)


def _adamw(groups: Groups, config: OptimizerConfig) -> Optimizer:
    return AdamW(groups, betas=(config.momentum, config.beta2), weight_decay=config.weight_decay)


OPTIMIZERS: dict[str, Callable[[Groups, OptimizerConfig], Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


def make_optimizer(model: nn.Module, backbone: str, config: OptimizerConfig) -> Optimizer:
    """The configured optimizer over two groups: parameters under the module `backbone`, and the others.

    Those that ask for no gradient are left out.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    inside = [parameter for name, parameter in trained.items() if name.startswith(f"{backbone}.")]
    outside = [parameter for name, parameter in trained.items() if not name.startswith(f"{backbone}.")]
    groups: Groups = [{"params": inside, "lr": config.backbone_lr}, {"params": outside, "lr": config.head_lr}]
    return OPTIMIZERS[config.name](groups, config)


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise InputError for settings that make no optimizer."""
    if config.name not in OPTIMIZERS:
        raise InputError(f"there is no optimizer {config.name!r}: choose one of {', '.join(OPTIMIZERS)}")
    if config.nesterov and config.name != "sgd":
        raise InputError(f"optimizer.nesterov is for sgd, not {config.name}: leave it out")
    if config.clip is not None and not config.clip > 0:
        raise InputError(f"optimizer.clip must be above 0, got {config.clip}")
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


def _cosine(optimizer: Optimizer, config: ScheduleConfig, updates: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, updates)


SCHEDULES = {"multistep": _multistep, "poly": _poly, "cosine": _cosine}


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
    if not 0 <= config.warmup < 1:
        raise InputError(f"schedule.warmup must be a share of the training, from 0 to below 1: got {config.warmup}")


def make_schedule(optimizer: Optimizer, config: ScheduleConfig, updates: int) -> LRScheduler:
    """The schedule that the configuration names, over a training of so many updates.

    With `warmup` the rates first rise linearly over that share of the updates, of n the first with 1 / (n + 1) of the
    whole rate, and the schedule runs over the others, its milestones counting from there. Raises InputError as
    `check_schedule` does.
    """
    check_schedule(config)
    rising = min(round(config.warmup * updates), updates - 1)
    if rising < 1:
        return SCHEDULES[config.name](optimizer, config, updates)
    rise = LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
    return SequentialLR(optimizer, [rise, SCHEDULES[config.name](optimizer, config, updates - rising)], [rising])


def check_average(config: RunConfig) -> None:
    """Raise InputError for a decay of which there is no average."""
    if config.ema is not None and not 0 < config.ema < 1:
        raise InputError(f"ema must be above 0 and below 1, got {config.ema}: 0.999 is usual")


def make_average(model: nn.Module, config: RunConfig) -> AveragedModel | None:
    """The exponential moving average of weights and running statistics, if there is to be one.

    It is the model itself after the first update, and then `ema` of what it was and 1 - `ema` of the model.
    """
    if config.ema is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
