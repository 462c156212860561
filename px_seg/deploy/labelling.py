"""Pictures and videos labelled file by file."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from px_seg.data.images import upright
from px_seg.data.palette import indexed
from px_seg.deploy.overlays import overlay, shares
from px_seg.deploy.predicting import Segmenter, Views
from px_seg.deploy.video import VIDEOS, label_video
from px_seg.errors import InputError
from px_seg.files import replacing, write_text

SUMMARY = "predictions.json"

_LONGEST = 65_000
"""Pixels on a side of a JPEG, a legend below left out."""


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
    known = {*Image.registered_extensions(), *VIDEOS} - _NO_IMAGES
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


def read_summary(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """What predictions.json in the folder says; of no images where there is none.

    Raises InputError for one that is damaged, or of a network with other classes.
    """
    file = folder / SUMMARY
    if not file.exists():
        return {"classes": list(classes), "images": {}, "skipped": {}}
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        dict(held["images"]), dict(held["skipped"])
        same = held["classes"] == list(classes)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file} is damaged: delete it, or give another --out") from None
    if not same:
        raise InputError(f"{file} is of a network with other classes: give another --out")
    return held


@dataclass
class Outcome:
    """What became of the files, by their paths."""

    labelled: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    """Why."""

    @property
    def names(self) -> set[str]:
        """Of all files that something became of."""
        return {*self.labelled, *self.skipped}


def label_all(
    segmenter: Segmenter,
    classes: Sequence[str],
    wanted: Sequence[Wanted],
    folder: Path,
    views: Views,
    batch_size: int,
    done: Callable[[Wanted, str | None], Any] = lambda one, problem: None,
) -> Outcome:
    """Label every file and write what comes of it to the folder, predictions.json last, also after an interruption.

    Images of one size that follow each other are labelled together, at most `batch_size`. A file that cannot be
    labelled is left out, and no results of it stay; `done` is told of each, and what was wrong with it. What
    predictions.json says of other files stays. Raises InputError for a folder that cannot be written to.
    """
    outcome = Outcome({}, {})
    before = read_summary(folder, classes)

    def skip(one: Wanted, problem: str) -> None:
        for file in one.results(folder):
            # What an earlier network made of it would be taken for this one's.
            file.unlink(missing_ok=True)
        outcome.skipped[str(one.source)] = problem
        done(one, problem)

    def note(one: Wanted, about: Mapping[str, Any]) -> None:
        files = {
            "overlay" if ".overlay." in file.name else "labels": file.relative_to(folder).as_posix()
            for file in one.results(folder)
        }
        outcome.labelled[str(one.source)] = {**about, **files}
        done(one, None)

    def summarise() -> None:
        for old, new in (("images", outcome.labelled), ("skipped", outcome.skipped)):
            others = {name: about for name, about in before[old].items() if name not in outcome.names}
            before[old] = {**others, **new}
        write_text(folder / SUMMARY, json.dumps(before, indent=2, ensure_ascii=False) + "\n")

    try:
        try:
            for group in _batches(wanted, batch_size, skip):
                if isinstance(group, Wanted):
                    (target,) = group.results(folder)
                    try:
                        note(group, label_video(segmenter, classes, group.source, target, views, batch_size))
                    except InputError as error:
                        skip(group, str(error))
                    continue
                for one, image, labels in _labelled(segmenter, group, views, skip):
                    _write(one, image, labels, classes, folder)
                    note(one, {"height": len(image), "width": image.shape[1], "shares": shares(labels, classes)})
        finally:
            summarise()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror or error}): make room, or give another --out"
        ) from None
    return outcome


_Read = tuple[Wanted, np.ndarray]


def _batches(
    wanted: Sequence[Wanted], batch_size: int, skip: Callable[[Wanted, str], Any]
) -> Iterator[Wanted | list[_Read]]:
    """Images of one size that follow each other, read ahead in threads; videos one by one."""
    ahead = 2 * batch_size
    with ThreadPoolExecutor(max_workers=2) as pool:
        reading: list[tuple[Wanted, Future[np.ndarray] | None]] = []
        batch: list[_Read] = []
        left = iter(wanted)
        while True:
            while len(reading) < ahead and (one := next(left, None)) is not None:
                reading.append((one, None if one.is_video else pool.submit(_readable, one.source)))
            if not reading:
                break
            one, future = reading.pop(0)
            if future is None:
                if batch:
                    yield batch
                    batch = []
                yield one
                continue
            try:
                image = future.result()
            except InputError as error:
                skip(one, str(error))
                continue
            if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
                yield batch
                batch = []
            batch.append((one, image))
        if batch:
            yield batch


def _readable(path: Path) -> np.ndarray:
    """The image. InputError for one that no JPEG can show."""
    image = upright(path)
    if max(image.shape) > _LONGEST:
        raise InputError(f"{path} has more than {_LONGEST} pixels on a side, which its overlay cannot have: cut it")
    return image


def _labelled(
    segmenter: Segmenter, batch: list[_Read], views: Views, skip: Callable[[Wanted, str], Any]
) -> Iterator[tuple[Wanted, np.ndarray, np.ndarray]]:
    try:
        found = segmenter.labels(np.stack([image for _, image in batch]), views)
    except InputError as error:
        for one, _ in batch:
            skip(one, f"{one.source}: {error}")
        return
    for (one, image), labels in zip(batch, found, strict=True):
        yield one, image, labels


def _write(one: Wanted, image: np.ndarray, labels: np.ndarray, classes: Sequence[str], folder: Path) -> None:
    plain, laid_over = one.results(folder)
    plain.parent.mkdir(parents=True, exist_ok=True)
    with replacing(plain) as fresh:
        indexed(labels).save(fresh, "PNG")
    with replacing(laid_over) as fresh:
        overlay(image, labels, classes).save(fresh, "JPEG", quality=90)
