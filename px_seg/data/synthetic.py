"""Procedural segmentation data: textured shapes on clutter, drawn in memory.

A class is a pair of shape and texture. Colours are drawn at random for every object, so they
carry no information; plain shapes without texture belong to the background, so a shape alone
is not enough; and every texture comes in every shape, so a texture alone is not enough either.
"""

from collections.abc import Callable

import numpy as np

from px_seg.data.base import IGNORE, Sample
from px_seg.errors import InputError

Field = np.ndarray


def _disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - 1.0


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - 0.75) - 0.27


def _bar(u: Field, v: Field) -> Field:
    return np.maximum(np.abs(u) - 1.3, np.abs(v) - 0.42)


def _stripes(u: Field, v: Field) -> Field:
    return np.sin(u) > 0


def _checks(u: Field, v: Field) -> Field:
    return np.sin(u) * np.sin(v) > 0


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": _disc,
    "ring": _ring,
    "bar": _bar,
}
"""Signed distance to the outline, negative inside, on coordinates where the radius is 1."""

TEXTURES: dict[str, Callable[[Field, Field], Field]] = {"striped": _stripes, "chequered": _checks}
"""Which of an object's two colours a point takes, on coordinates where the period is 2 pi."""

CLASSES = ("background", *(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES))

SPLITS = {"train": 0, "val": 1}


class Synthetic:
    """`length` images of `size` x `size`, each a pure function of (seed, split, index).

    The splits draw from separate random streams. Raises InputError for an unknown split, no
    images, a negative seed, or images too small to show a texture.
    """

    classes = CLASSES

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

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, SPLITS[self.split], index))
        image = _clutter(rng, self.size)
        mask = np.zeros((self.size, self.size), np.uint8)
        for _ in range(rng.integers(1, 3)):
            _draw(rng, image, mask, label=0)
        for _ in range(rng.integers(1, 4)):
            _draw(rng, image, mask, label=int(rng.integers(1, len(CLASSES))))
        image += rng.normal(0.0, 0.04, image.shape)
        mask[_borders(mask)] = IGNORE
        return Sample((image.clip(0, 1) * 255).astype(np.uint8), mask)


def _clutter(rng: np.random.Generator, size: int) -> Field:
    """A background of blurred colour blocks at three scales, crossed by straight strokes."""
    image = np.full((size, size, 3), 0.5)
    for cells, strength in ((2, 0.35), (5, 0.25), (size // 4, 0.15)):
        grid = rng.uniform(-strength, strength, (cells + 1, cells + 1, 3))
        image += _enlarge(grid, size)
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.integers(2, 7)):
        angle, width = rng.uniform(0, np.pi), rng.uniform(0.5, 1.5)
        offset = rng.uniform(0, size)
        distance = np.abs((x - offset) * np.sin(angle) - (y - size / 2) * np.cos(angle))
        _paint(image, np.clip(width + 0.5 - distance, 0, 1), rng.uniform(0, 1, 3))
    return image


def _enlarge(grid: Field, size: int) -> Field:
    """Bilinear enlargement of a (k, k, 3) grid of corner values to (size, size, 3)."""
    at = np.linspace(0, grid.shape[0] - 1, size)
    low = np.minimum(at.astype(int), grid.shape[0] - 2)
    part = at - low
    rows = grid[low] * (1 - part)[:, None, None] + grid[low + 1] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]


def _draw(rng: np.random.Generator, image: Field, mask: np.ndarray, label: int) -> None:
    """Paint one object over what is there; label 0 paints a plain shape, a distractor."""
    size = len(mask)
    radius = size * rng.uniform(0.16, 0.32)
    centre = rng.uniform(0.15 * size, 0.85 * size, 2)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)

    shapes, textures = list(SHAPES.values()), list(TEXTURES.values())
    kind = label - 1 if label else int(rng.integers(len(shapes))) * len(textures)
    shape, texture = shapes[kind // len(textures)], textures[kind % len(textures)]
    coverage = np.clip(0.5 - radius * shape(u / radius, v / radius), 0, 1)

    dark, light = rng.uniform(0, 0.45, 3), rng.uniform(0.55, 1, 3)
    if label:
        turn = 2 * np.pi / rng.uniform(5, 8)
        pattern = texture(u * turn, v * turn)[..., None]
        _paint(image, coverage, np.where(pattern, dark, light))
    else:
        _paint(image, coverage, dark if rng.random() < 0.5 else light)
    mask[coverage > 0.5] = label


def _paint(image: Field, coverage: Field, colour: np.ndarray) -> None:
    image += coverage[..., None] * (colour - image)


def _borders(mask: np.ndarray) -> np.ndarray:
    """Pixels next to, or on, a change of label: a void outline two pixels wide, as VOC has."""
    border = np.zeros(mask.shape, bool)
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
