"""Procedural data, for segmentation and for classification: textured shapes on clutter.

A class is a pair of shape and texture. Colours are drawn at random for every object, so they
carry no information; plain shapes without texture belong to the background, so a shape alone
is not enough; and every texture comes in every shape, so a texture alone is not enough either.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from px_seg.data.base import IGNORE, LabelledImage, Sample, chosen
from px_seg.data.drawing import SHAPES, TEXTURES, Field, clutter, draw, finished
from px_seg.data.images import Stored
from px_seg.errors import InputError

SPLITS = {"train": 0, "val": 1}


def _names(shapes: Sequence[str], textures: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{texture} {shape}" for shape in shapes for texture in textures)


class _Drawn:
    """`length` images of `size` x `size`, each a pure function of (seed, split, index).

    The splits draw from separate random streams. Raises InputError for an unknown split, no
    images, a negative seed, or images too small to show a texture.
    """

    faults: Sequence[str] = ()
    channels = 3

    def __init__(self, split: str, length: int, size: int = 64, seed: int = 0) -> None:
        if split not in SPLITS:
            raise InputError(f"synthetic data has no split {split!r}: choose one of {', '.join(SPLITS)}")
        if size < 32:
            raise InputError(f"synthetic images of {size} pixels cannot show a texture: use at least 32")
        if length < 1:
            raise InputError(f"data.{split}_images must be at least 1, got {length}")
        if seed < 0:
            raise InputError(f"data.seed must be at least 0, got {seed}")
        self.split, self.length, self.size, self.seed = split, length, size, seed

    def __len__(self) -> int:
        return self.length

    def files(self, index: int) -> tuple[Path, ...]:
        return ()

    def _generator(self, *key: int) -> np.random.Generator:
        if not 0 <= key[-1] < self.length:
            raise IndexError(key[-1])
        return np.random.default_rng((self.seed, SPLITS[self.split], *key))


class Synthetic(_Drawn):
    """Segmentation: up to two plain shapes, and one to three objects of the six classes over them."""

    shapes, textures = ("disc", "ring", "bar"), ("striped", "chequered")
    classes = ("background", *_names(shapes, textures))
    encoding = ""

    def __getitem__(self, index: int) -> Sample:
        rng = self._generator(index)
        image = clutter(rng, self.size)
        mask = np.zeros((self.size, self.size), np.uint8)
        for _ in range(rng.integers(1, 3)):
            mask[draw(rng, image, [SHAPES[name] for name in self.shapes], None) > 0.5] = 0
        for _ in range(rng.integers(1, 4)):
            label = int(rng.integers(1, len(self.classes)))
            texture, shape = self.classes[label].split()
            mask[draw(rng, image, [SHAPES[shape]], TEXTURES[texture]) > 0.5] = label
        picture = finished(rng, image)
        mask[_borders(mask)] = IGNORE
        return Sample(picture, mask)


class SyntheticObjects(_Drawn):
    """Classification: one object near the middle, whose shape and texture are the class.

    `classes` are some of `SyntheticObjects.every`, in the order of their labels, by default all; the images
    take turns, so that each class has as many, but for the remainder. The images of a class do not depend on
    which others are asked for. Raises InputError for a class that does not exist.
    """

    every = _names(tuple(SHAPES), tuple(TEXTURES))

    def __init__(
        self, split: str, length: int, size: int = 64, seed: int = 0, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__(split, length, size, seed)
        self.classes = chosen(self.every, classes, "synthetic data")
        self.labels = [index % len(self.classes) for index in range(length)]

    def __getitem__(self, index: int) -> LabelledImage:
        label = self.labels[index]
        name = self.classes[label]
        rng = self._generator(1 + self.every.index(name), index // len(self.classes))
        image = clutter(rng, self.size)
        texture, shape = name.split()
        draw(rng, image, [SHAPES[shape]], TEXTURES[texture], radii=(0.26, 0.4), places=(0.35, 0.65))
        return LabelledImage(finished(rng, image), label)

    def stored(self, index: int) -> Stored:
        return Stored("RGB", self.size, self.size, f"{self.split} {index}", dim=False)


def _borders(mask: Field) -> Field:
    """Pixels next to, or on, a change of label: a void outline two pixels wide, as VOC has."""
    border = np.zeros(mask.shape, bool)
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
