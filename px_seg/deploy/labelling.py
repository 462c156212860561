"""Pictures and videos labelled file by file."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from px_seg.data.images import as_rgb, upright
from px_seg.data.palette import indexed
from px_seg.deploy.overlays import overlay, shares
from px_seg.deploy.predicting import Segmenter, Views
from px_seg.deploy.video import label_video
from px_seg.deploy.wanted import Wanted
from px_seg.errors import InputError
from px_seg.files import parse_json, replacing, write_text

SUMMARY = "predictions.json"

_LONGEST = 65_000
"""Pixels on a side of a JPEG, a legend below left out."""


def read_summary(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """What predictions.json in the folder says; of no images where there is none.

    Raises InputError for one that is damaged, or of a network with other classes.
    """
    file = folder / SUMMARY
    if not file.exists():
        return {"classes": list(classes), "images": {}, "skipped": {}}
    try:
        held = parse_json(file.read_text(encoding="utf-8"))
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
            for group in _batches(wanted, batch_size, segmenter.channels, skip):
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
    wanted: Sequence[Wanted], batch_size: int, channels: int, skip: Callable[[Wanted, str], Any]
) -> Iterator[Wanted | list[_Read]]:
    """Images of one size that follow each other, read ahead in threads; videos one by one."""
    ahead = 2 * batch_size
    with ThreadPoolExecutor(max_workers=2) as pool:
        reading: list[tuple[Wanted, Future[np.ndarray] | None]] = []
        batch: list[_Read] = []
        left = iter(wanted)
        while True:
            while len(reading) < ahead and (one := next(left, None)) is not None:
                reading.append((one, None if one.is_video else pool.submit(_readable, one.source, channels)))
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


def _readable(path: Path, channels: int) -> np.ndarray:
    """The image. InputError for one that no JPEG can show."""
    image = upright(path, channels).pixels
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
        overlay(as_rgb(image), labels, classes).save(fresh, "JPEG", quality=90)
