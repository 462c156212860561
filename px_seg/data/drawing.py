"""Textured shapes on clutter, drawn in memory. Colours are random, so that they carry no information."""

from collections.abc import Callable, Sequence

import numpy as np

Field = np.ndarray
Shape = Callable[[Field, Field], Field]
Texture = Callable[[Field, Field], Field]


def _disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - 1.0


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - 0.75) - 0.27


def _bar(u: Field, v: Field) -> Field:
    return np.maximum(np.abs(u) - 1.3, np.abs(v) - 0.42)


def _cross(u: Field, v: Field) -> Field:
    along, across = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(along - 1.1, across - 0.36)


def _triangle(u: Field, v: Field) -> Field:
    slopes = np.sqrt(0.75) * np.abs(u) + 0.5 * v
    return np.maximum(slopes, -v) - 0.62


def _stripes(u: Field, v: Field) -> Field:
    return np.sin(u) > 0


def _checks(u: Field, v: Field) -> Field:
    return np.sin(u) * np.sin(v) > 0


def _dots(u: Field, v: Field) -> Field:
    return np.sin(u) + np.sin(v) > 0.9


SHAPES: dict[str, Shape] = {"disc": _disc, "ring": _ring, "bar": _bar, "cross": _cross, "triangle": _triangle}
"""Signed distance to the outline, negative inside, on coordinates where the radius is 1."""

TEXTURES: dict[str, Texture] = {"striped": _stripes, "chequered": _checks, "dotted": _dots}
"""Where the light colour goes, on coordinates whose period is 2 pi."""


def clutter(rng: np.random.Generator, size: int) -> Field:
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


def draw(
    rng: np.random.Generator,
    image: Field,
    shapes: Sequence[Shape],
    texture: Texture | None,
    radii: tuple[float, float] = (0.16, 0.32),
    places: tuple[float, float] = (0.15, 0.85),
) -> Field:
    """Paint one object over the image, in place, at a random place, size and angle; its coverage, in [0, 1].

    The shape is drawn from several; without a texture the object has one colour. Radius and centre are in shares of
    the image's side.
    """
    size = len(image)
    radius = size * rng.uniform(*radii)
    centre = rng.uniform(places[0] * size, places[1] * size, 2)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)

    shape = shapes[0] if len(shapes) == 1 else shapes[int(rng.integers(len(shapes)))]
    coverage = np.clip(0.5 - radius * shape(u / radius, v / radius), 0, 1)
    dark, light = rng.uniform(0, 0.45, 3), rng.uniform(0.55, 1, 3)
    if texture is not None:
        turn = 2 * np.pi / rng.uniform(5, 8)
        pattern = texture(u * turn, v * turn)[..., None]
        _paint(image, coverage, np.where(pattern, dark, light))
    else:
        _paint(image, coverage, dark if rng.random() < 0.5 else light)
    return coverage


def finished(rng: np.random.Generator, image: Field) -> np.ndarray:
    """The image with noise, as uint8."""
    image = image + rng.normal(0.0, 0.04, image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def _enlarge(grid: Field, size: int) -> Field:
    """Bilinear enlargement of a (k, k, 3) grid of corner values to (size, size, 3)."""
    at = np.linspace(0, grid.shape[0] - 1, size)
    low = np.minimum(at.astype(int), grid.shape[0] - 2)
    part = at - low
    rows = grid[low] * (1 - part)[:, None, None] + grid[low + 1] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]


def _paint(image: Field, coverage: Field, colour: np.ndarray) -> None:
    image += coverage[..., None] * (colour - image)
