"""Images from files; errors name the file and what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from px_seg.errors import InputError, one_line

TURNED = range(2, 9)
"""Orientations of EXIF that turn or mirror an image."""

DEEP = "more than 8 bits a channel"
"""The key of an image's `info` under which it says so of the file."""

SMALLEST = 8
"""The shortest side of an image, in pixels, that can still be scaled down and cropped."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within the context, which decodes the image, whatever its decoder raises is an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} has gone missing") from None
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise InputError(f"{path} takes more memory than there is") from None
    except Exception as error:
        # A damaged file fails in whatever of its format's decoder reads it first.
        raise InputError(f"{path} is not a readable image ({one_line(error, 160)}): replace or remove it") from None


def opened(path: Path, side: int | None = None) -> Image.Image:
    """The decoded image as it is stored. InputError when it cannot be read, or not to its end.

    With `side`, a JPEG is decoded no larger than needed for that, which reads just as much of it in less time.
    """
    with _naming(path):
        if path.exists() and not path.is_file():
            # A pipe would be waited for.
            raise InputError(f"{path} is not a file: replace or remove it")
        image = Image.open(path)
        if side is not None:
            image.draft(None, (side, side))
        # Pillow reads the upper 8 of 16 bits in colour, and no longer says so then.
        image.info[DEEP] = any("16" in _raw_mode(tile[3]) for tile in getattr(image, "tile", ()))
        image.load()
    return image


def _raw_mode(arguments: object) -> str:
    """How a decoder's arguments say that pixels lie in the file: they are that, or begin with it."""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


class Photograph(NamedTuple):
    """An image as a file holds it, turned as its EXIF data says."""

    pixels: np.ndarray
    """(H, W, 3), uint8, RGB."""
    orientation: int
    """That of EXIF: 1 where nothing was turned, at least 5 where sides changed places."""


def photograph(path: Path) -> Photograph:
    """Any image of 8 bits a channel; grey, palette and CMYK images are converted.

    InputError when it cannot be read, is too small, or has more bits.
    """
    image = usable(opened(path), path)
    with _naming(path):
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation not in TURNED:
            return Photograph(np.array(image.convert("RGB")), 1)
        return Photograph(np.array(ImageOps.exif_transpose(image).convert("RGB")), orientation)


def mask_of(image: Photograph, mask: Image.Image, about: str) -> np.ndarray:
    """The labels of a photograph, turned as it was unless they are already, as sizes tell.

    InputError where they do not; `about` is then what image and mask are called.
    """
    if image.orientation == 1:
        return np.array(mask)
    height, width = image.pixels.shape[:2]
    if image.orientation < 5 or height == width:
        raise InputError(
            f"{about}: the image is to be turned, its EXIF data says, and nothing tells whether the mask is turned "
            "already: store the image upright, without that entry"
        )
    if mask.size == (width, height):
        return np.array(mask)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = image.orientation
    mask.info["exif"] = exif.tobytes()
    return np.array(ImageOps.exif_transpose(mask))


def upright(path: Path) -> np.ndarray:
    """Any image as (H, W, 3) uint8 RGB, turned as its EXIF data says; of 16 bits a channel the upper 8.

    Grey, palette and CMYK images are converted, transparency is left out. InputError when it cannot be read, or holds
    numbers of no known range.
    """
    with _naming(path):
        image = ImageOps.exif_transpose(opened(path))
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise InputError(f"{path} holds numbers of no known range: convert it to 8 bits")
        return np.array(image.convert("RGB"))


def usable(image: Image.Image, path: Path) -> Image.Image:
    """The image itself. InputError for more than 8 bits a channel and for sides below `SMALLEST`."""
    if image.mode.startswith(("I", "F")) or image.info.get(DEEP):
        raise InputError(f"{path} has more than 8 bits per channel: convert it to 8")
    if min(image.size) < SMALLEST:
        raise InputError(f"{path} is {image.width}x{image.height} pixels: each side must have at least {SMALLEST}")
    return image
