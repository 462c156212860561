"""How colours are normalised for a network."""

from collections.abc import Iterable
from typing import NamedTuple


class Normalisation(NamedTuple):
    """Mean and standard deviation of every channel, RGB, of colours in [0, 1]: (colour - mean) / std is shown."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, mean: Iterable[float], std: Iterable[float]) -> "Normalisation":
        """From three numbers each. ValueError where there are more or fewer."""
        (red, green, blue), (red_std, green_std, blue_std) = map(float, mean), map(float, std)
        return cls((red, green, blue), (red_std, green_std, blue_std))

    def as_plain(self) -> dict[str, list[float]]:
        """As a JSON file keeps it."""
        return {key: list(values) for key, values in self._asdict().items()}

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in self)
        return f"mean {mean} and standard deviation {std}"


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet's training images: what most networks are trained with."""

SYMMETRIC = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Colours from -1 to 1: Inception's, and those of TensorFlow's networks."""
