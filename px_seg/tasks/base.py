"""What the rest of the project asks of a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from px_seg.config import RunConfig
from px_seg.data.checked import Check, check_all
from px_seg.data.loaders import Key, Loader, Transformed
from px_seg.data.normalisation import Normalisation
from px_seg.data.survey import Survey, conversions, in_both
from px_seg.errors import InputError
from px_seg.metrics import Score

LARGEST = 8192
"""Side of a training image, in pixels, above which the number is taken for a mistake."""


C = TypeVar("C", bound=RunConfig)
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Task(Protocol[C, M]):
    """What pruning, training and reporting ask of a task, its configurations of class C and its networks of class M."""

    name: str
    """Of the command, and of the folder in configs/ that has its presets, one for each dataset."""
    about: str
    """What the command does, for its help: a line, then examples after an empty line."""
    config_type: type[C]
    scope: str
    """The part of the model that is pruned, trained at the backbone's learning rate, and passes between tasks."""
    scores: tuple[Score, ...]
    """All single-number scores that `evaluate` may return, the main one first; runs are compared by that."""
    details: tuple[str, ...]
    """What `evaluate` says of every class beyond what is logged of each epoch: for results.json alone."""
    classes: tuple[str, ...]
    normalisation: Normalisation
    """Of all its images: that of the weights that the network starts from."""
    train: Transformed
    val: Transformed
    also: dict[str, Transformed]
    """Further validation images, by the list that they are on: the trained network is evaluated on each."""
    val_cropped: Transformed
    """The validation images in one size that the network takes as it is."""

    def __init__(self, config: C) -> None:
        """Find the data. Raises InputError when it is not there."""

    @staticmethod
    def check(config: C, synchronised: bool) -> None:
        """Raise InputError for settings that need neither data nor network to be refused.

        `synchronised` says whether BatchNorm sees the batches of several processes.
        """

    def check_data(self) -> list[str]:
        """Read every sample that has changed since it was found good. What is to be noted.

        Raises InputError for the first that cannot be used.
        """

    @staticmethod
    def parts(config: C) -> Mapping[str, Any]:
        """The configured data, the training images first, then those of validation, by what they are called.

        What is missing of it is among the `faults` of each.
        """

    @staticmethod
    def survey(data: Any, what: str, check: Check = check_all) -> Survey:
        """Read all of such data that is not on record as good, as `check` has it."""

    @staticmethod
    def meaning(data: Any) -> list[str]:
        """What the labels of such data stand for, in a line, where that is not known from its name."""

    @staticmethod
    def problems(config: C, data: Any, survey: Survey, what: str) -> list[str]:
        """What is wrong with such data as a whole, though every sample is right."""

    def build_model(self) -> M:
        """The dense network, initialised from torch's global generator. Its part `scope` is the backbone."""

    def fit_head(self, model: M, accelerator: Accelerator) -> None:
        """Set, in place, what of the network's start is computed from the training data, if anything is."""

    def pruning_draw(self) -> list[list[Key]]:
        """The training samples of every batch that pruning scores with. InputError when there are not enough."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A differentiable scalar, the mean over the labels; 0 where there are none."""

    def labelled(self, targets: Tensor) -> Tensor:
        """How many labels `loss` is the mean over, by the weights of their classes, a scalar on their device."""

    def evaluate(self, model: nn.Module, loader: Loader, device: torch.device) -> dict[str, Any]:
        """Scores over the images of all processes, under the names that results.json uses."""

    def settings(self) -> dict[str, Any]:
        """What of the configuration only this task has, for results.json."""

    def report(self, scores: Mapping[str, Any]) -> list[str]:
        """What `evaluate` returns beyond `scores`, as lines of the table for a terminal."""

    def save(self, model: M, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the model so that its library's `from_pretrained` reads it, and how images are prepared for it.

        `card` is for its description.
        """

    def draw(self, folder: Path, model: nn.Module, scores: Mapping[str, Any], title: str) -> None:
        """Write what the model does on a few validation images: a picture, and samples.npz (`px_seg.predictions`); and
        which classes it takes for which, by what `evaluate` found.
        """


TRAINING, VALIDATION = "training images", "validation images"


def further(lists: Mapping[str, T]) -> dict[str, T]:
    """What belongs to further lists, by what their images are called."""
    return {f"images of {split}": own for split, own in lists.items()}


def check_parts(kind: type[Task], config: RunConfig, parts: Mapping[str, Any]) -> list[str]:
    """What is to be noted of data such as `Task.parts` finds, or some of it, once every sample was seen to be right.

    Raises InputError for the first that is not, and for what is wrong with all of them together.
    """
    notes = kind.meaning(next(iter(parts.values())))
    surveys: dict[str, Survey] = {}
    for what, data in parts.items():
        survey = surveys[what] = kind.survey(data, what)
        if problems := kind.problems(config, data, survey, what):
            raise InputError(problems[0])
        notes += [*survey.notes, *conversions(data, survey, what)]
    if TRAINING in parts:
        notes += in_both(surveys[TRAINING], surveys[VALIDATION], parts[VALIDATION])
    return list(dict.fromkeys(notes))


def check_size(size: int, least: int = 1) -> None:
    """Raise InputError for a data.size that no image has."""
    if not least <= size <= LARGEST:
        raise InputError(f"data.size must be at least {least} and at most {LARGEST}, got {size}")


def spread(length: int, count: int) -> list[int]:
    """`count` indices from the first to the last of `length`, evenly spread; fewer where there are fewer."""
    return sorted({round((length - 1) * place / max(1, count - 1)) for place in range(count)})


def evenly_cropped(task: Task, count: int, batch_size: int) -> list[Tensor]:
    """`count` validation images of one size, evenly spread over them, in batches; all where there are fewer."""
    data = task.val_cropped
    images = [data[index, 0][0] for index in spread(len(data), min(count, len(data)))]
    return list(torch.stack(images).split(batch_size))
