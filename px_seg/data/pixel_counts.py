"""How many pixels of each label a dataset has, from reading every mask, once."""

from typing import NamedTuple

import numpy as np

from px_seg.data.base import IGNORE, SegmentationData
from px_seg.data.checked import check_all
from px_seg.data.mask_folders import MaskFolders


class LabelCounts(NamedTuple):
    """Of all samples of a dataset together, by label from 0 to 255."""

    pixels: np.ndarray
    """(256,) int64."""
    images: np.ndarray
    """(256,) int64: samples that have any pixel of the label."""
    notes: list[str]
    """What the user should be told."""


def label_counts(data: SegmentationData, what: str) -> LabelCounts:
    """Read every sample that is not on record as good, and count its pixels by label.

    Raises InputError for the first that cannot be used.
    """

    def counted(index: int) -> str:
        counts = np.bincount(data[index].mask.reshape(-1), minlength=IGNORE + 1)
        return " ".join(f"{label}:{counts[label]}" for label in counts.nonzero()[0])

    # How many classes there are says which labels a mask may hold, and a code what these stand for.
    check = f"label counts of {len(data.classes)} classes"
    if isinstance(data, MaskFolders):
        check += f" by {sorted(data.code.labels.items())}{' in colours' if data.code.coloured else ''}"
    found, notes = check_all(counted, data, what, check)
    pixels, images = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
    for text in found:
        for pair in text.split():
            label, count = map(int, pair.split(":"))
            pixels[label] += count
            images[label] += 1
    return LabelCounts(pixels, images, notes)
