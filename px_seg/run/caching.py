"""A run's images kept in memory."""

import os

import torch

from px_seg.cost import free_memory
from px_seg.data.memory import InMemory, bytes_of
from px_seg.tasks import Task
from px_seg.tasks.base import TRAINING, VALIDATION

SHARE = 0.7
"""Of the memory that is free, what images may take: the training needs some itself."""


def keep_in_memory(task: Task) -> list[str]:
    """Keep the training images decoded, and the validation images, as far as they fit; what was done, for a reader.

    Every process of a machine has its own. Raises what reading an image does.
    """
    left = SHARE * free_memory(torch.device("cpu")) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    notes = []
    for what, part in ((TRAINING, task.train), (VALIDATION, task.val)):
        survey = task.survey(part.data, what)
        size = bytes_of(survey, part.data.channels)
        if size > left:
            notes.append(
                f"the {what} are read from their files in every epoch: decoded they take {size / 1e9:.1f} GB, and "
                f"{left / 1e9:.1f} GB of memory are free for them"
            )
            continue
        part.data = InMemory(part.data, survey, what)
        left -= size
        notes.append(f"the {what} are kept in memory: {size / 1e9:.2f} GB")
    return notes
