"""Devices, processes and trackers, through Accelerate."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, broadcast, broadcast_object_list
from torch import Tensor

from px_seg.config import RunConfig
from px_seg.errors import InputError

T = TypeVar("T")


def make_accelerator(config: RunConfig, folder: Path) -> Accelerator:
    """The Accelerator that `accelerate launch`, or torchrun, asked for, logging to the configured tracker.

    Raises InputError for settings that accelerate or the hardware refuses, and for a tracker
    that does not exist or is not installed.
    """
    _check_tracker(config.tracker)
    if config.threads is not None and not 1 <= config.threads <= 1024:
        raise InputError(f"threads must be at least 1 and at most 1024, got {config.threads}")
    try:
        accelerator = Accelerator(
            log_with=config.tracker,
            # The schedule counts updates, of which all processes together make one.
            step_scheduler_with_optimizer=False,
            gradient_accumulation_plugin=_accumulation(config),
            project_dir=str(folder),
            # The other processes wait while the main one fetches and checks the data.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:
        raise InputError(f"accelerate rejects its settings: {error}") from None
    check_precision(accelerator.mixed_precision, accelerator.device.type)
    if config.sync_bn and accelerator.num_processes > 1 and accelerator.device.type != "cuda":
        raise InputError("sync_bn needs GPUs: leave --sync_bn out")
    if accelerator.device.type == "cpu":
        _share_cores(config.threads)
    return accelerator


def _accumulation(config: RunConfig) -> GradientAccumulationPlugin:
    """As many batches an update as configured, or else as the launcher was told; ValueError for what is no such number.

    Loaders leave out what fills no update (`px_seg.data.loaders.training_loader`), so none is cut short.
    """
    text = str(config.gradient_accumulation or os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"gradient_accumulation_steps must be a whole number, at least 1, got {text}")
    return GradientAccumulationPlugin(num_steps=int(text), sync_with_dataloader=False)


def check_precision(mixed_precision: str, device: str) -> None:
    """Raise InputError for a precision that the device has not, which accelerate replaces by float32."""
    if mixed_precision == "fp16" and device == "cpu":
        raise InputError("mixed precision fp16 needs a GPU: on a CPU launch with --mixed_precision bf16, or no")


def in_channels_last(config: RunConfig, accelerator: Accelerator) -> bool:
    """Whether a run's network is to be in the channels-last memory format, which what it computes then has as well."""
    if config.channels_last is not None:
        return config.channels_last
    return accelerator.device.type == "cuda" and accelerator.mixed_precision != "no"


@contextmanager
def only_deterministic(asked: bool) -> Iterator[list[str]]:
    """Within the context torch uses its deterministic algorithms, if that is asked for, and cuDNN does not try others.

    The list gets the names of operations that this process carried out and that have none on their device.
    """
    left: list[str] = []
    if not asked:
        yield left
        return
    former = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(_WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # cuBLAS reads it when it is first used.
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=_INDETERMINATE.pattern)
            shown = warnings.showwarning

            def note(message: Warning | str, *where: Any, **more: Any) -> None:
                found = _INDETERMINATE.match(str(message))
                if found is None:
                    shown(message, *where, **more)
                elif found[1] not in left:
                    left.append(found[1])

            # What torch warns of in C++ goes through here as well, from whatever thread.
            warnings.showwarning = note
            yield left
    finally:
        torch.use_deterministic_algorithms(former[0], warn_only=former[1])
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            del os.environ[_WORKSPACE]


_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

_INDETERMINATE = re.compile(r"(\S+) does not have a deterministic implementation")


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` returns, done by the main process before the others begin.

    An error of the main process is raised on all, so that none is left waiting for it: an
    InputError as it is, another as a RuntimeError on the others.
    """
    done: list[T] = []
    error: Exception | None = None
    if accelerator.is_main_process:
        try:
            done.append(work())
        except Exception as caught:
            error = caught
    failure: list[tuple[bool, str] | None] = [None if error is None else (isinstance(error, InputError), str(error))]
    broadcast_object_list(failure)
    if error is not None:
        raise error
    if failure[0] is not None:
        bad_input, message = failure[0]
        raise InputError(message) if bad_input else RuntimeError(f"the main process failed: {message}")
    return done[0] if done else work()


def main_only(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """What `work` returns on the main process, which alone does it; None on the others. Errors as in `main_first`."""
    return main_first(accelerator, lambda: work() if accelerator.is_main_process else None)


def broadcast_from_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` returns on the main process, on all; it must be small. An error is raised on all."""
    shared: list[T | None] = [main_only(accelerator, work)]
    broadcast_object_list(shared)
    # Filled on all by now; what the work returns may be None as well.
    return cast(T, shared[0])


def copy_from_main(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's values of these tensors, in place."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            tensor.copy_(broadcast(tensor.detach().clone()))


class Agreement:
    """Numbers of which all processes of a launch take the highest, without waiting for their devices."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Called by all."""
        several = accelerator.num_processes > 1
        self._group: Any = torch.distributed.new_group(backend="gloo") if several else None

    def highest(self, number: int) -> int:
        """The highest number that any process gave; called by all."""
        if self._group is None:
            return number
        shared = torch.tensor(number)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, self._group)
        return int(shared)


def leave_group() -> None:
    """Leave the process group of this launch, once nothing more is to be run."""
    PartialState().destroy_process_group()


def _share_cores(threads: int | None) -> None:
    """Use `threads` CPU threads, or this process's share of the machine's cores.

    `accelerate launch` sets OMP_NUM_THREADS=1 when nothing else is asked for, which leaves
    all cores but one idle on a machine without a GPU; any other value is the user's choice.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _check_tracker(tracker: str | None) -> None:
    if tracker is None:
        return
    if tracker not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"there is no tracker {tracker!r}: choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if tracker not in [str(name) for name in get_available_trackers()]:
        raise InputError(f"the tracker {tracker} is not installed: pip install {tracker}")
