"""All that there is to say of a task's data: what is wrong, file by file, and what it consists of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from px_seg.config import RunConfig
from px_seg.data.checked import check_each
from px_seg.data.survey import Survey, conversions, in_both, named
from px_seg.tasks import Task
from px_seg.tasks.base import TRAINING, VALIDATION


class Part(NamedTuple):
    """The images of one list."""

    data: Any
    """As the task reads them."""
    survey: Survey


class Findings(NamedTuple):
    """Of all lists of a task."""

    parts: Mapping[str, Part]
    """By what they are called, the training images first."""
    classes: Sequence[str]
    faults: Sequence[str]
    """Why a run would refuse them, one line for each file."""
    notes: Sequence[str]
    """What a run would do, and users may not expect."""


def inspect(task: type[Task], config: RunConfig, found: Mapping[str, Any]) -> Findings:
    """Read what is not on record as good of the images that `Task.parts` found, and go on where one is wrong.

    What is found to be right is on record, from where runs know it.
    """
    notes, faults = task.meaning(found[TRAINING]), list[str]()
    parts: dict[str, Part] = {}
    for what, data in found.items():
        survey = task.survey(data, what, check_each)
        parts[what] = Part(data, survey)
        faults += [*data.faults, *map(str, survey.faults.values()), *task.problems(config, data, survey, what)]
        notes += [*survey.notes, *conversions(data, survey, what), *_twice(data, survey, what)]
    training, validation = parts[TRAINING], parts[VALIDATION]
    notes += in_both(training.survey, validation.survey, validation.data)
    notes += _absent(training)
    return Findings(parts, training.data.classes, list(dict.fromkeys(faults)), list(dict.fromkeys(notes)))


def _twice(data: Any, survey: Survey, what: str) -> list[str]:
    first: dict[str, int] = {}
    again = [
        (index, first[stored.content])
        for index, stored in survey.stored.items()
        if first.setdefault(stored.content, index) != index
    ]
    if not again:
        return []
    one, other = (named(data, index) for index in again[0])
    return [f"{len(again)} of the {what} show the same as another of them, such as {one} and {other}"]


def _absent(training: Part) -> list[str]:
    images = training.survey.images()
    absent = [name for label, name in enumerate(training.data.classes) if not images[label]]
    if not absent or not training.survey.stored:
        return []
    more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
    return [f"no training image has {', '.join(absent[:5])}{more}: it cannot be learned"]
