"""What the samples of a dataset are like, and what labels they have, from reading each once."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from px_seg.data.base import IGNORE, ClassificationData, SegmentationData
from px_seg.data.checked import Check, check_all
from px_seg.data.images import CONVERTED, Stored
from px_seg.errors import InputError

LOST = {"RGBA": ", without transparency", "LA": ", without transparency"}
"""What is lost of an image by its mode, where anything is."""


class Survey(NamedTuple):
    """Of a dataset, by the index of the sample."""

    stored: Mapping[int, Stored]
    """The images that can be used."""
    labels: Mapping[int, Mapping[int, int]]
    """Of these, pixels by label, from 0 to 255; of classification one by class."""
    of_pixels: bool
    """Whether pixels have labels, or images."""
    faults: Mapping[int, InputError]
    """Why the others cannot."""
    notes: list[str]
    """What the user should be told."""

    def pixels(self) -> np.ndarray:
        """(256,) int64: pixels of every label."""
        counts = np.zeros(IGNORE + 1, np.int64)
        for labels in self.labels.values():
            for label, count in labels.items():
                counts[label] += count
        return counts

    def images(self) -> Counter[int]:
        """Images in which a label occurs, by label."""
        return Counter(label for labels in self.labels.values() for label in labels)


def survey_masks(data: SegmentationData, what: str, check: Check = check_all) -> Survey:
    """Read every image with its mask that is not on record as good; `what` names them.

    With `check_all` it raises InputError for the first that cannot be used, and with `check_each` goes on.
    """

    def read(index: int) -> list[Any]:
        sample = data[index]
        counts = np.bincount(sample.mask.reshape(-1), minlength=IGNORE + 1)
        labels = [[label, int(counts[label])] for label in counts.nonzero()[0].tolist()]
        return [*Stored.of(sample.image, sample.mode), labels]

    # How many classes there are says which labels a mask may hold, and a code what these stand for.
    by = f" by {data.encoding}" if data.encoding else ""
    seen = f" of {data.channels} channels" if data.channels != 3 else ""
    found = check(read, data, what, f"masks of {len(data.classes)} classes{by}{seen}")
    stored = {index: Stored(*value[:-1]) for index, value in found.values.items()}
    labels = {index: dict(value[-1]) for index, value in found.values.items()}
    return Survey(stored, labels, of_pixels=True, faults=found.faults, notes=found.notes)


def survey_images(data: ClassificationData, what: str, check: Check = check_all) -> Survey:
    """Read every image of a class that is not on record as good; all else as `survey_masks`."""
    found = check(lambda index: list(data.stored(index)), data, what, "images of classes")
    stored = {index: Stored(*value) for index, value in found.values.items()}
    labels = {index: {data.labels[index]: 1} for index in stored}
    return Survey(stored, labels, of_pixels=False, faults=found.faults, notes=found.notes)


def named(data: SegmentationData | ClassificationData, index: int) -> str:
    """A sample by the file of its image, or by its place in memory."""
    return str(next(iter(data.files(index)), f"number {index}"))


def conversions(data: SegmentationData | ClassificationData, survey: Survey, what: str) -> list[str]:
    """A note on images that are not stored as they are used, in RGB or grey."""
    wanted = CONVERTED.get(data.channels)
    others = Counter(stored.mode for stored in survey.stored.values() if wanted and stored.mode != wanted)
    if not others or not any(data.files(0)):
        return []
    kinds = ", ".join(f"{count} {mode}{LOST.get(mode.split()[0], '')}" for mode, count in sorted(others.items()))
    first = next(index for index, stored in survey.stored.items() if stored.mode != wanted)
    name = "grey" if data.channels == 1 else "RGB"
    name += " of 8 bits" if any(mode.endswith("bits") for mode in others) else ""
    return [f"{others.total()} of the {what} are not {name} and are converted ({kinds}, such as {named(data, first)})"]


def too_dim(data: SegmentationData | ClassificationData, survey: Survey, what: str) -> list[str]:
    """What is wrong where most images have 16 bits and none of these uses the upper four: little would be seen."""
    deep = [index for index, stored in survey.stored.items() if stored.mode.endswith("bits")]
    if len(deep) <= len(data) / 2 or not all(survey.stored[index].dim for index in deep):
        return []
    return [
        f"{len(deep)} of the {what} have 16 bits a channel, and none of them a value above 4095, such as "
        f"{named(data, deep[0])}: of 16 bits the upper 8 are used, so scale them to the whole range"
    ]


def in_both(training: Survey, validation: Survey, data: SegmentationData | ClassificationData) -> list[str]:
    """A note where images of validation, whose `data` this is, are training images too, by `Stored.content`."""
    known = {stored.content for stored in training.stored.values()}
    shared = [index for index, stored in validation.stored.items() if stored.content in known]
    if not shared:
        return []
    return [
        f"{len(shared)} of the {len(data)} validation images are training images as well, such as "
        f"{named(data, shared[0])}: the scores say little of other images"
    ]
