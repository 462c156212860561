"""How a model runs while it is scored: nothing of the caller's affects it, and it leaves nothing behind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from px_seg.errors import InputError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context every module is in eval mode; afterwards each is in its own again."""
    with _modes(model, lambda module: False):
        yield


@contextmanager
def all_training(model: nn.Module) -> Iterator[None]:
    """Within the context every module is in training mode; afterwards each is in its own again."""
    with _modes(model, lambda module: True):
        yield


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within the context every BatchNorm normalises by its batch and everything else, dropout too, is in eval mode.

    Running statistics move as in training: lend the model copies of them where they must not. Raises InputError for
    a SyncBatchNorm on several processes: these need not have as many batches to synchronise.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for name, module in model.named_modules():
            if isinstance(module, nn.SyncBatchNorm) and torch.distributed.get_world_size() > 1:
                raise InputError(
                    f"{name} is a SyncBatchNorm, with which batches cannot be scored: convert to it after pruning"
                )
    with _modes(model, lambda module: isinstance(module, _BatchNorm)):
        yield


@contextmanager
def last_batch_only(model: nn.Module) -> Iterator[None]:
    """Within the context running statistics that move become those of the last batch."""
    momenta = [(module, module.momentum) for module in model.modules() if isinstance(module, _BatchNorm)]
    try:
        for module, _ in momenta:
            module.momentum = 1.0
        yield
    finally:
        for module, momentum in momenta:
            module.momentum = momentum


@contextmanager
def undisturbed(device: torch.device, precision: str | None = None) -> Iterator[None]:
    """Within the context the caller's own inference mode, autocast and compilation are off.

    Autocast would change the dtype, and a compiled model hide its operations. GPUs round as
    `precision` says (`px_seg.pruning.paths.precision.arithmetic`).
    """
    with (
        torch.inference_mode(False),
        torch.autocast(device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
        arithmetic(precision, device),
    ):
        yield


@contextmanager
def arithmetic(precision: str | None, device: torch.device) -> Iterator[None]:
    """Within the context a GPU rounds to TF32 in convolutions and products if asked to, and not otherwise.

    torch's own default rounds in convolutions. Raises InputError for `tf32` without a GPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"tf32 needs an NVIDIA GPU, but the model is on {device.type}: leave precision out")
    if device.type != "cuda":
        yield
        return
    # torch puts the switch there as it is imported, where no checker sees it.
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            _set(switch, "tf32" if precision == "tf32" else "ieee")
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            _set(switch, value)


@contextmanager
def _modes(model: nn.Module, training: Callable[[nn.Module], bool]) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = training(module)
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _set(switch: Any, value: str) -> None:
    # Only where it changes something: a switch that is set no longer follows torch's common one.
    if switch.fp32_precision != value:
        switch.fp32_precision = value
