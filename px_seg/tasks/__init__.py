"""A task is data, network, loss and scores. Tasks differ here and nowhere else."""

from px_seg.tasks.base import Task
from px_seg.tasks.classification import Classification
from px_seg.tasks.registry import TASKS, presets, score_by, task_of
from px_seg.tasks.segmentation import Segmentation

__all__ = ["TASKS", "Classification", "Segmentation", "Task", "presets", "score_by", "task_of"]
