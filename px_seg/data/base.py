"""What every segmentation dataset of the project looks like to the rest of it."""

from typing import NamedTuple, Protocol

import numpy as np

IGNORE = 255
"""The label of pixels that neither the loss nor the metric counts, as in VOC."""


class Sample(NamedTuple):
    """One undecorated image with its labels, as stored or drawn."""

    image: np.ndarray
    """(H, W, 3), uint8, RGB."""
    mask: np.ndarray
    """(H, W), uint8: a class index, or 255 where the label is void."""


class SegmentationData(Protocol):
    """An indexable collection of samples. Reading one twice gives the same arrays."""

    classes: tuple[str, ...]
    """Class names by index; index 0 is the background."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
