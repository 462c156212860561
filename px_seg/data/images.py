"""Images from files; errors name the file and what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from px_seg.errors import InputError, one_line

ARRAY = ".npy"
"""The ending of a file that holds an array of NumPy's."""

CONVERTED = {1: "L", 3: "RGB"}
"""The modes of Pillow to which images are converted, by their number of channels; others are as they are stored."""

TURNED = range(2, 9)
"""Orientations of EXIF that turn or mirror an image."""

DEEP = "more than 8 bits a channel"
"""The key of an image's `info` under which it says so of the file."""

SIDES = "width and height"
"""The key under which it says how large the file has it."""

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
        image.info[SIDES] = image.size
        if side is not None:
            image.draft(None, (side, side))
        # Pillow reads the upper 8 of 16 bits in colour, and no longer says so then.
        raw = [_raw_mode(tile[3]) for tile in getattr(image, "tile", ())]
        # BGR;15 and BGR;16 are bits of a pixel.
        image.info[DEEP] = any("16" in mode and not mode.startswith("BGR;1") for mode in raw)
        image.load()
    return image


def _raw_mode(arguments: object) -> str:
    """How a decoder's arguments say that pixels lie in the file: they are that, or begin with it."""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


class Photograph(NamedTuple):
    """An image as a file holds it, turned as its EXIF data says."""

    pixels: np.ndarray
    """(H, W, C), uint8, RGB where they are 3."""
    orientation: int
    """That of EXIF: 1 where nothing was turned, at least 5 where sides changed places."""
    mode: str
    """As the file has it, RGB or another; see `mode_of`."""


def photograph(path: Path, channels: int = 3) -> Photograph:
    """What `upright` reads. InputError also for an image that is too small to learn from."""
    image = upright(path, channels)
    height, width = image.pixels.shape[:2]
    _check_sides((width, height), path)
    return image


def upright(path: Path, channels: int = 3) -> Photograph:
    """Any image, turned as its EXIF data says; of 16 bits a channel the upper 8.

    Three channels are RGB: grey, palette and CMYK images are converted, transparency is left out. One is grey, to which
    all are converted. Other numbers are those that the file has, as RGBA and CMYK have 4, and an array (H, W, C) of
    uint8 or uint16 in a file of NumPy's, NAME.npy, any. InputError when it cannot be read, holds numbers of no known
    range, or has another number of channels.
    """
    with _naming(path):
        if path.suffix.lower() == ARRAY:
            return _array(path, channels)
        image = opened(path)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = ImageOps.exif_transpose(image) if orientation in TURNED else image
        pixels = np.array(_coloured(turned, path, channels))
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        return Photograph(pixels, orientation if orientation in TURNED else 1, mode_of(image))


def _array(path: Path, channels: int) -> Photograph:
    pixels = np.load(path, allow_pickle=False)
    found = pixels[..., None] if pixels.ndim == 2 else pixels
    if found.ndim != 3 or found.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} is an array {pixels.shape} of {pixels.dtype}: save (H, W, C) of uint8 or uint16")
    _check_channels(path, found.shape[2], channels)
    mode = f"{channels} channels" + (" of 16 bits" if found.dtype == np.uint16 else "")
    return Photograph(found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8), 1, mode)


def _coloured(image: Image.Image, path: Path, channels: int = 3) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{path} holds numbers of no known range: convert it to 8 bits")
    if channels in CONVERTED:
        return image if image.mode == CONVERTED[channels] else image.convert(CONVERTED[channels])
    _check_channels(path, len(image.getbands()), channels)
    return image


def _check_channels(path: Path, found: int, asked: int) -> None:
    if found != asked:
        raise InputError(f"{path} has {found} channels, and data.channels is {asked}")


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, C) as a picture (H, W, 3): grey as grey, and of more channels the first three."""
    if pixels.shape[2] < 3:
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def mode_of(image: Image.Image) -> str:
    """The colour mode of an opened image in Pillow's words, with its bits where they are more than 8: L of 16 bits."""
    if image.mode.startswith("I;16"):
        return "L of 16 bits"
    return f"{image.mode} of 16 bits" if image.info.get(DEEP) else image.mode


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


class Stored(NamedTuple):
    """An image as its file has it."""

    mode: str
    """As `mode_of` says."""
    width: int
    height: int
    content: str
    """Digest of its pixels, or of those of a smaller picture of it: those of two copies in one format are equal."""
    dim: bool
    """Whether it has more than 8 bits a channel, and none of its values uses the upper four."""

    @classmethod
    def of(cls, pixels: np.ndarray, mode: str, sides: tuple[int, int] | None = None) -> "Stored":
        """Of pixels (H, W, C) uint8, turned as EXIF says; where they were made smaller `sides` are the image's."""
        height, width = pixels.shape[:2]
        width, height = sides or (width, height)
        about = repr((pixels.shape, width, height)).encode()
        content = blake2b(about + np.ascontiguousarray(pixels).tobytes(), digest_size=10)
        return cls(mode, width, height, content.hexdigest(), dim=mode.endswith("bits") and bool(pixels.max() < 16))


def stored(path: Path) -> Stored:
    """What is in a file that `photograph` reads, from as little of it as will do. Raises InputError for what it does.

    Large JPEGs are compared by a smaller picture of them.
    """
    image = opened(path, 64)
    with _naming(path):
        _check_sides(image.info[SIDES], path)
        sides, mode = image.info[SIDES], mode_of(image)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in TURNED:
            sides, image = sides if orientation < 5 else sides[::-1], ImageOps.exif_transpose(image)
        return Stored.of(np.array(_coloured(image, path)), mode, sides)


def _check_sides(sides: tuple[int, int], path: Path) -> None:
    if min(sides) < SMALLEST:
        raise InputError(f"{path} is {sides[0]}x{sides[1]} pixels: each side must have at least {SMALLEST}")
