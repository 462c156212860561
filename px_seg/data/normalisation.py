"""How colours are normalised for a network."""

from collections.abc import Iterable
from typing import NamedTuple


class Normalisation(NamedTuple):
    """Mean and standard deviation of every channel, of colours in [0, 1]: (colour - mean) / std is shown."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Iterable[float], std: Iterable[float]) -> "Normalisation":
        """From as many numbers each. ValueError where there are more of one, or none."""
        found = cls(tuple(map(float, mean)), tuple(map(float, std)))
        if len(found.mean) != len(found.std) or not found.mean:
            raise ValueError(f"{len(found.mean)} means and {len(found.std)} standard deviations")
        return found

    def for_channels(self, channels: int) -> "Normalisation":
        """That of images of so many channels, from one of three: the mean of all for one, else in turns.

        As the weights of a first layer are taken, see `px_seg.models.load_encoder`.
        """
        if channels == 1:
            return Normalisation(*((sum(values) / len(values),) for values in self))
        return Normalisation(*(tuple(values[place % len(values)] for place in range(channels)) for values in self))

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
