"""The files that are to be labelled, and what their results are called."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from PIL import Image

from px_seg.data.images import ARRAY
from px_seg.deploy.video import VIDEOS
from px_seg.errors import InputError


@dataclass(frozen=True)
class Wanted:
    """A file to be labelled."""

    source: Path
    name: str
    """What its results are called: a path below the output folder, without suffix."""

    @property
    def is_video(self) -> bool:
        """By its name."""
        return self.source.suffix.lower() in VIDEOS

    def results(self, folder: Path) -> list[Path]:
        """The files that labelling it writes."""
        endings = (".overlay.mp4",) if self.is_video else (".png", ".overlay.jpg")
        return [folder / f"{self.name}{ending}" for ending in endings]


def find(sources: Sequence[Path], out: Path) -> list[Wanted]:
    """The files themselves, and all images and videos in and below the folders, in the order of their names.

    Hidden files and folders are left out, and what lies in `out`, which is for results. A file that is named twice is
    there once. Files whose results would have the same name keep their endings in it.

    Raises InputError for what is not there or cannot be read, and for a folder with no image.
    """
    found: dict[str, Wanted] = {}
    for source in sources:
        if source.is_dir():
            inside = _inside(source, out)
            if not inside:
                raise InputError(f"there is no image in {source}: give a folder with images, or their files")
            for path in inside:
                found.setdefault(_real(path), Wanted(path, path.relative_to(source).with_suffix("").as_posix()))
        elif source.is_file():
            found.setdefault(_real(source), Wanted(source, source.stem))
        else:
            raise InputError(f"there is no image or folder {source}")
    wanted = list(found.values())
    often = Counter(file for one in wanted for file in one.results(out))
    wanted = [
        Wanted(one.source, one.name + one.source.suffix) if any(often[file] > 1 for file in one.results(out)) else one
        for one in wanted
    ]
    by_result: dict[Path, Wanted] = {}
    for one in wanted:
        for file in one.results(out):
            other = by_result.setdefault(file, one)
            if other is not one:
                raise InputError(
                    f"{other.source} and {one.source} would both become {file}: label them one by one, into two folders"
                )
    return wanted


def _inside(folder: Path, out: Path) -> list[Path]:
    if _real(folder) == _real(out):
        raise InputError(f"--out {out} is the folder that is to be labelled: give another, such as {out / 'labels'}")

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}")

    paths: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and _real(Path(place, name)) != _real(out)
        )
        paths += [Path(place, name) for name in names if not name.startswith(".")]
    known = {*Image.registered_extensions(), *VIDEOS, ARRAY} - _NO_IMAGES
    return sorted(path for path in paths if path.suffix.lower() in known and path.is_file())


_NO_IMAGES = {".pdf", ".h5", ".hdf", ".mpg", ".mpeg"}
"""What Pillow knows the names of, and does not read."""


def _real(path: Path) -> str:
    """The same for two names of one file; of a loop of links something."""
    return os.path.realpath(path)


def check_results(wanted: Iterable[Wanted], folder: Path, overwrite: bool) -> None:
    """Raise InputError where labelling would write over an image that is labelled, or over any file unless told to.

    Also for names that no file can have, and for a file that would have to be a folder.
    """
    wanted = list(wanted)
    sources = {_real(one.source) for one in wanted}
    results = [file for one in wanted for file in one.results(folder)]
    folders = {parent for file in results for parent in file.parents}
    for file in results:
        # While it is written a file has a longer name.
        if len(os.fsencode(file.name)) > 220:
            raise InputError(f"{file.name[:40]}... is too long a name for a file: rename the image")
        if _real(file) in sources:
            raise InputError(f"{file} is an image to be labelled, and would be written over: give another --out")
        if file in folders or file.is_dir():
            raise InputError(f"{file} would be a file and a folder: rename one of the images, or give another --out")
        if file.exists() and not overwrite:
            raise InputError(
                f"{file} is there already: --overwrite writes over it, --resume leaves out what is labelled, another "
                "--out leaves it"
            )
