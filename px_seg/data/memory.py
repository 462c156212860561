"""Decoded images that stay in memory, so that every epoch but the first reads no file."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from px_seg.data.base import LabelledImage, Sample
from px_seg.data.images import Stored
from px_seg.data.survey import Survey, named
from px_seg.errors import InputError
from px_seg.progress import bar


class InMemory:
    """The samples of another dataset, decoded once and held as bytes, each what it was there.

    `sizes` has the bytes of every sample, see `sample_sizes`. All are in one tensor: processes that load images take
    part of it where they are forked, and `shared` puts it where those see it that are started anew. Raises what reading
    a sample does, and InputError for one that is no longer of its size.
    """

    def __init__(self, data: Any, sizes: Sequence[int], what: str, shared: bool = False, show: bool = True) -> None:
        self.data, self.classes, self.faults, self.channels = data, data.classes, data.faults, data.channels
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8)
        if shared:
            self._bytes.share_memory_()
        self._heights = np.zeros(len(data), np.int64)
        self._modes = [""] * len(data)
        with ThreadPoolExecutor() as pool:
            kept = pool.map(self._keep, range(len(data)))
            for _ in bar(kept, desc=f"keeping {what}", total=len(data), unit="image", show=show):
                pass

    def _keep(self, index: int) -> None:
        sample = self.data[index]
        place = self._place(index)
        parts = [sample.image, sample.mask] if isinstance(sample, Sample) else [sample.image]
        if sum(part.size for part in parts) != place.size:
            raise InputError(f"{named(self.data, index)} was changed while it was read: start again")
        np.concatenate([part.reshape(-1) for part in parts], out=place)
        self._heights[index] = len(sample.image)
        self._modes[index] = sample.mode if isinstance(sample, Sample) else ""

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


def sample_sizes(survey: Survey, channels: int = 3) -> list[int]:
    """The bytes that every sample of a survey takes, of images of so many channels, with masks where it has them."""
    return [stored.width * stored.height * (channels + survey.of_pixels) for stored in survey.stored.values()]
