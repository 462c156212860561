"""Decoded images that stay in memory, so that every epoch but the first reads no file."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from px_seg.data.base import LabelledImage, Sample
from px_seg.data.images import Stored
from px_seg.data.survey import Survey
from px_seg.progress import bar


class InMemory:
    """The samples of another dataset, decoded once and held as bytes, each what it was there.

    `survey` is of that dataset, and knows how large its images are. All are in one tensor, which torch shares with the
    processes of a data loader however these are started. Raises what reading a sample does.
    """

    def __init__(self, data: Any, survey: Survey, what: str) -> None:
        self.data, self.classes, self.faults, self.channels = data, data.classes, data.faults, data.channels
        sizes = [_sample_bytes(survey.stored[index], data.channels, survey.of_pixels) for index in range(len(data))]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8)
        self._heights = np.zeros(len(data), np.int64)
        self._modes = [""] * len(data)
        with ThreadPoolExecutor() as pool:
            for _ in bar(pool.map(self._keep, range(len(data))), desc=f"keeping {what}", total=len(data), unit="image"):
                pass

    def _keep(self, index: int) -> None:
        sample = self.data[index]
        place = self._place(index)
        image = sample.image.reshape(-1)
        place[: image.size] = image
        self._heights[index] = len(sample.image)
        if isinstance(sample, Sample):
            place[image.size :] = sample.mask.reshape(-1)
            self._modes[index] = sample.mode

    def _place(self, index: int) -> np.ndarray:
        return self._bytes[self._starts[index] : self._starts[index + 1]].numpy()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample | LabelledImage:
        # A copy, which a transform may write into.
        held, height = self._place(index).copy(), int(self._heights[index])
        if not self._modes[index]:
            return LabelledImage(held.reshape(height, -1, self.channels), self.data.labels[index])
        pixels = held.size // (self.channels + 1)
        image, mask = held[: self.channels * pixels], held[self.channels * pixels :]
        return Sample(image.reshape(height, -1, self.channels), mask.reshape(height, -1), self._modes[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return self.data.files(index)

    def stored(self, index: int) -> Stored:
        return self.data.stored(index)

    @property
    def encoding(self) -> str:
        return self.data.encoding

    @property
    def labels(self) -> Sequence[int]:
        return self.data.labels


def bytes_of(survey: Survey, channels: int = 3) -> int:
    """What all samples of a survey take, of images of so many channels."""
    return sum(_sample_bytes(stored, channels, survey.of_pixels) for stored in survey.stored.values())


def _sample_bytes(stored: Stored, channels: int, masks: bool) -> int:
    return stored.width * stored.height * (channels + masks)
