"""What the datasets of the project look like to the rest of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from px_seg.data.images import Stored
from px_seg.errors import InputError

IGNORE = 255
"""The label of pixels that neither the loss nor the metric counts, as in VOC."""


class Sample(NamedTuple):
    """One unprocessed image with its labels, as stored or drawn."""

    image: np.ndarray
    """(H, W, C), uint8, RGB where they are 3."""
    mask: np.ndarray
    """(H, W), uint8: a class index, or 255 where the label is void."""
    mode: str = "RGB"
    """Of the image as it is stored; see `px_seg.data.images.mode_of`."""


class SegmentationData(Protocol):
    """An indexable collection of samples. Reading one twice gives the same arrays."""

    classes: tuple[str, ...]
    """Class names by index; index 0 is the background."""

    @property
    def channels(self) -> int:
        """Of every image."""

    @property
    def encoding(self) -> str:
        """What stands for which class in the files of masks; empty where it is the class's index."""

    @property
    def faults(self) -> Sequence[str]:
        """What is asked for and not there, a line for each file; the rest is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def files(self, index: int) -> tuple[Path, ...]:
        """The files that a sample is read from; none when it is in memory."""


class LabelledImage(NamedTuple):
    """One unprocessed image of one class."""

    image: np.ndarray
    """(H, W, 3), uint8, RGB."""
    label: int


class ClassificationData(Protocol):
    """An indexable collection of labelled images. Reading one twice gives the same array."""

    classes: tuple[str, ...]
    """Class names by index."""

    @property
    def channels(self) -> int:
        """Of every image."""

    @property
    def faults(self) -> Sequence[str]:
        """What is asked for and not there, a line for each file; the rest is."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of every image, known without reading it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage: ...

    def files(self, index: int) -> tuple[Path, ...]:
        """The files that an image is read from; none when it is in memory."""

    def stored(self, index: int) -> Stored:
        """What an image is like; decodes it, where it is a file, to see that it can be used."""


def chosen(every: Sequence[str], wanted: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The wanted classes, or all. InputError for one that does not exist, is named twice, or is the only one."""
    if wanted is None:
        if len(every) < 2:
            raise InputError(f"{where} has one class, {every[0]}: classification needs at least two")
        return tuple(every)
    for name in wanted:
        if name not in every:
            known = ", ".join(every[:20]) + (f" and {len(every) - 20} more" if len(every) > 20 else "")
            raise InputError(f"{where} has no class {name!r}: choose data.classes from {known}")
    if len(set(wanted)) < len(wanted):
        raise InputError("data.classes names a class twice")
    if len(wanted) < 2:
        raise InputError("data.classes must name at least two classes")
    return tuple(wanted)
