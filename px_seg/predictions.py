"""What a network makes of a few validation images, as a run keeps it for pictures that are drawn later."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from px_seg.errors import InputError


class Prediction(NamedTuple):
    """One image with truth and prediction: classes of every pixel or of the whole image, or pictures."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB"""
    truth: np.ndarray
    """(H, W) or () int16, index of the class; or (H, W, 3) uint8, a picture of what is no class, such as depth"""
    predicted: np.ndarray
    """the same"""

    @classmethod
    def of(cls, image: Tensor, truth: Tensor | int, predicted: Tensor | int) -> "Prediction":
        """Of an image and class indices."""
        return cls(np.asarray(image), np.asarray(truth, dtype=np.int16), np.asarray(predicted, dtype=np.int16))


def save(path: Path, shown: Sequence[Prediction], classes: Sequence[str]) -> None:
    """Write the images and the names of all classes to an .npz file."""
    arrays = {f"{part}{number}": array for number, one in enumerate(shown) for part, array in one._asdict().items()}
    np.savez_compressed(path, classes=np.array(classes, dtype=str), **arrays)


def load(path: Path) -> tuple[list[Prediction], list[str]]:
    """The images and the names of all classes. InputError when the file is not one that `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            count = sum(name.startswith("image") for name in stored.files)
            shown = [Prediction(*(stored[f"{part}{number}"] for part in Prediction._fields)) for number in range(count)]
            return shown, stored["classes"].tolist()
    except Exception as error:
        # A damaged archive fails in whatever reads it first.
        raise InputError(f"{path} is missing or damaged: delete the run's folder and rerun it") from error
