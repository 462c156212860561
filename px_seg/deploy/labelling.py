"""Pictures and videos labelled file by file."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    What lies in `out`, which is for results, is left out of a folder that it lies in.

    Raises InputError for what is not there, for a folder with no image, and for two files whose results would have the
    same name.
    """
    found: list[Wanted] = []
    for source in sources:
        if source.is_dir():
            inside = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in _readable()]
            inside = [path for path in inside if path.is_file() and not path.name.startswith(".")]
            if source.resolve() in out.resolve().parents:
                inside = [path for path in inside if out.resolve() not in path.resolve().parents]
            if not inside:
                raise InputError(f"there is no image in {source}: give a folder with images, or their files")
            found += [Wanted(path, path.relative_to(source).with_suffix("").as_posix()) for path in inside]
        elif source.is_file():
            found.append(Wanted(source, source.stem))
        else:
            raise InputError(f"there is no image or folder {source}")
    first: dict[str, Path] = {}
    for one in found:
        other = first.setdefault(one.name, one.source)
        if other is not one.source:
            raise InputError(
                f"{other} and {one.source} would both become {one.name}.png: label them into two folders, with --out"
            )
    return found


def _readable() -> set[str]:
    return {*Image.registered_extensions(), *VIDEOS} - {".pdf", ".h5", ".hdf", ".mpg", ".mpeg"}


def check_results(wanted: Iterable[Wanted], folder: Path, overwrite: bool) -> None:
    """Raise InputError where labelling would write over an image that is labelled, or over any file unless told to."""
    wanted = list(wanted)
    sources = {one.source.resolve() for one in wanted}
    for file in (folder / SUMMARY, *(file for one in wanted for file in one.results(folder))):
        if file.resolve() in sources:
            raise InputError(f"{file} is an image to be labelled, and would be written over: give another --out")
        if file.exists() and not overwrite:
            raise InputError(f"{file} is there already: --overwrite writes over it, another --out leaves it")


@dataclass
class Outcome:
    """What became of the files, by their paths."""

    labelled: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    """Why."""


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
    labelled is left out; `done` is told of each, and what was wrong with it. Raises InputError for a folder that
    cannot be written to.
    """
    outcome = Outcome({}, {})

    def skip(one: Wanted, problem: str) -> None:
        outcome.skipped[str(one.source)] = problem
        done(one, problem)

    def note(one: Wanted, about: Mapping[str, Any]) -> None:
        files = {
            "overlay" if ".overlay." in file.name else "labels": file.relative_to(folder).as_posix()
            for file in one.results(folder)
        }
        outcome.labelled[str(one.source)] = {**about, **files}
        done(one, None)

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
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror or error}): make room, or give another --out"
        ) from None
    finally:
        if outcome.labelled or outcome.skipped:
            held = {"classes": list(classes), "images": outcome.labelled, "skipped": outcome.skipped}
            write_text(folder / SUMMARY, json.dumps(held, indent=2) + "\n")
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
                reading.append((one, None if one.is_video else pool.submit(upright, one.source)))
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
