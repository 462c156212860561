"""A run's images kept in memory."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from px_seg.cost import free_memory
from px_seg.data.memory import InMemory, sample_sizes
from px_seg.data.torchvision_sets import ArrayImages
from px_seg.devices import Agreement, broadcast_from_main
from px_seg.errors import InputError
from px_seg.tasks import Task
from px_seg.tasks.base import TRAINING, VALIDATION, further

SHARE = 0.7
"""Of the memory that is free, what images may take: the training needs some itself."""

SHARED = Path("/dev/shm")
"""Where memory is that processes share which are started anew."""


def keep_in_memory(task: Task, accelerator: Accelerator, agreement: Agreement, workers: int) -> list[str]:
    """Keep the images decoded, list by list, as far as they fit; what was done, for a reader. Called by all processes.

    Each has its own, and all keep the same lists. Raises what reading an image does, on all processes.
    """
    shared = workers > 0 and multiprocessing.get_start_method() != "fork"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    left = -agreement.highest(-int(SHARE * _free(shared) / processes))
    notes = []
    for what, part in {TRAINING: task.train, VALIDATION: task.val, **further(task.also)}.items():
        data = part.data
        if isinstance(data, ArrayImages):
            continue

        def sizes(data=data, what=what) -> list[int]:
            return sample_sizes(task.survey(data, what), data.channels)

        # Of the main process, which has read everything: records of files need not reach the others.
        each = broadcast_from_main(accelerator, sizes)
        if sum(each) > left:
            notes.append(
                f"the {what} are read from their files in every epoch: decoded they take {sum(each) / 1e9:.1f} GB, and "
                f"{left / 1e9:.1f} GB of memory are free for them"
            )
            continue
        make = partial(InMemory, data, each, what, shared, accelerator.is_main_process)
        part.data = _by_all(agreement, make)
        if what == VALIDATION:
            task.val_cropped.data = part.data
        left -= sum(each)
        notes.append(f"the {what} are kept in memory: {sum(each) / 1e9:.2f} GB")
    return notes


def _by_all(agreement: Agreement, make: Callable[[], InMemory]) -> InMemory:
    """What `make` returns; an InputError of one process is one on all, so that none waits for it."""
    failure: InputError | None = None
    try:
        kept = make()
    except InputError as error:
        failure = error
    if agreement.highest(int(failure is not None)):
        raise failure or InputError("another process could not keep its images in memory")
    return kept


def _free(shared: bool) -> int:
    """Bytes of memory that are free, and of that which processes share where it is to be shared."""
    free = free_memory(torch.device("cpu"))
    return min(free, shutil.disk_usage(SHARED).free) if shared and SHARED.is_dir() else free
