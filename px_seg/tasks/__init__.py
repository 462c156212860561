"""A task is data, network, loss and metric. Tasks differ here and nowhere else."""

from px_seg.tasks.base import Task
from px_seg.tasks.classification import Classification
from px_seg.tasks.segmentation import Segmentation

__all__ = ["Classification", "Segmentation", "Task"]
