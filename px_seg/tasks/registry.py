"""The tasks by name, and what others need to know of a task that they know by name alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from px_seg.config import CONFIGS
from px_seg.errors import InputError
from px_seg.metrics import Score
from px_seg.tasks.base import Task
from px_seg.tasks.classification import Classification
from px_seg.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Segmentation, Classification)}
"""Every task by the name of its command and of its folder in configs/."""


def task_of(name: str) -> type[Task]:
    """The task of that name. InputError when there is none."""
    if name not in list(TASKS):
        raise InputError(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


def presets(task: type[Task]) -> Path:
    """The folder of the task's configurations, NAME.yaml for the dataset NAME."""
    return CONFIGS / task.name


def score_by(results: Mapping[str, Any]) -> Score:
    """The score by which runs of the task of these results are compared."""
    return task_of(results["task"]).scores[0]
