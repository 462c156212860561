"""A folder that gets the photo dataset, whole or not at all."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from px_seg.data.photo import build, build_objects, find_sources, unpack_packages
from px_seg.errors import InputError

OBJECT_SIZE = 96
"""Side of an image of a single object, in pixels."""


class Request(NamedTuple):
    """What is to be composed."""

    train: int
    """Training images."""
    val: int
    """Validation images of objects never seen in training, and as many in val_seen of those seen there."""
    size: int
    """Longest side of an image, in pixels."""
    objects: int
    """Images of single objects for training, of every class; a quarter as many for validation."""
    seed: int
    stamps: Path | None
    """Folder of the objects; with None both are downloaded."""
    backgrounds: Path | None

    @property
    def counts(self) -> dict[str, int]:
        """Images by split."""
        return {"train": self.train, "val": self.val, "val_seen": self.val}


def make_photo_folder(out: Path, asked: Request) -> None:
    """Compose what is asked for in `out`, in folders `VOCdevkit` and `objects`; an interrupted call leaves neither.

    Raises InputError for what cannot be done, before anything is downloaded, and what `px_seg.data.photo` does.
    """
    _check(out, asked)
    with _beside(out) as aside, tempfile.TemporaryDirectory() as unpacked:
        stamps, backgrounds = asked.stamps, asked.backgrounds
        if stamps is None or backgrounds is None:
            stamps, backgrounds = unpack_packages(Path(unpacked))
        sources = find_sources(stamps, backgrounds, asked.seed)
        build(aside, sources, asked.counts, asked.size, asked.seed)
        if asked.objects:
            singly = {"train": asked.objects, "val": math.ceil(asked.objects / 4)}
            build_objects(aside, sources, singly, OBJECT_SIZE, asked.seed)
        for made in sorted(aside.iterdir(), reverse=True):
            made.rename(out / made.name)


def _check(out: Path, asked: Request) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, not a folder")
    if asked.seed < 0:
        raise InputError(f"--seed must be at least 0, got {asked.seed}")
    if (out / "VOCdevkit").exists():
        raise InputError(f"{out} already holds a VOCdevkit: choose another folder")
    if (asked.stamps is None) != (asked.backgrounds is None):
        raise InputError("give both --stamps and --backgrounds, or neither")
    if min(asked.train, asked.val) < 1 or asked.size < 64:
        raise InputError("--train and --val take at least 1 image, --size at least 64 pixels")
    if asked.objects < 0:
        raise InputError(f"--objects must be at least 0, got {asked.objects}")
    if asked.objects and (out / "objects").exists():
        raise InputError(f"{out} already holds objects: choose another folder")
    for folder, flag in ((asked.stamps, "--stamps"), (asked.backgrounds, "--backgrounds")):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{flag} {folder} is not a folder")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """An empty folder in `out` for as long as the context lasts. InputError where nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=out)
    except OSError as error:
        raise InputError(f"nothing can be written to {out}: {error.strerror}") from None
    with aside as path:
        yield Path(path)
