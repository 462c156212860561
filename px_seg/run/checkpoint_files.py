"""Checkpoints on the disk: two folders, the newest and the one before, each with a record of what it must hold.

A checkpoint lies in `NAME`, the one before in `NAME.old`, one that is being written in `NAME.new`, and what was found
damaged in `NAME.damaged`, `NAME.damaged-2` and so on. Its record is progress.json: JSON with the SHA-256 of every other
file, and its own.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.errors import InputError
from px_seg.files import delete_known, flush, flush_tree, parse_json
from px_seg.identity import sha256_of

RECORD = "progress.json"

AVERAGE = "average.safetensors"
"""The average of the weights, where there is one."""

FILES = (RECORD, AVERAGE, "model.safetensors", "optimizer.bin", "scheduler.bin", "scaler.pt")
PATTERNS = ("random_states_*.pkl", "custom_checkpoint_*.pkl")
"""What Accelerate and we write of a checkpoint."""

FORMAT = 2
"""Of the record. 1 had no hashes and one checkpoint an epoch."""


class Sealed(NamedTuple):
    """A checkpoint that is as it was written."""

    folder: Path
    record: dict[str, Any]
    """What `install` was given."""


class _Damaged(Exception):
    """What of a checkpoint is not as it was written."""


def install(folder: Path, record: Mapping[str, Any]) -> None:
    """Make the checkpoint written to `fresh(folder)` the newest, with this record, once it is all on the disk.

    What was the newest becomes the one before, and the one before that goes.
    """
    new = fresh(folder)
    files = {name: sha256_of(path) for name, path in _files(new).items()}
    content = json.loads(json.dumps({"format": FORMAT, "files": files, **record}))
    (new / RECORD).write_text(json.dumps({"sha256": _own(content), **content}))
    flush_tree(new)
    if folder.exists():
        former = _former(folder)
        discard(former)
        if former.exists():
            # Somebody's own files are in it.
            former.rename(_aside(folder))
        folder.rename(former)
    # Where there is none, the one before is the only one there is.
    new.rename(folder)
    flush(folder.parent)


def newest(folder: Path, say: Callable[[str], object]) -> Sealed | None:
    """The newest sound checkpoint, or None; damaged ones that are newer are set aside, which is said.

    Raises InputError for one of another version of px_seg.
    """
    aside, new = None, fresh(folder)
    if not folder.exists() and (new / RECORD).is_file():
        # Sealed, and killed before it had its name.
        new.rename(folder)
    for place in (folder, _former(folder)):
        if not place.exists():
            continue
        try:
            return Sealed(place, _opened(place))
        except _Damaged as error:
            aside = _aside(folder)
            place.rename(aside)
            say(f"the checkpoint {place} is damaged ({error}): it is kept as {aside.name}, and the one before is tried")
    if aside is not None:
        say("no sound checkpoint is left: training begins again")
    return None


def fresh(folder: Path) -> Path:
    """Where the next checkpoint is written to."""
    return folder.with_name(f"{folder.name}.new")


def forget(folder: Path) -> None:
    """Delete the checkpoints, but for damaged ones."""
    for place in (folder, fresh(folder), _former(folder)):
        discard(place)


def damaged(folder: Path) -> list[Path]:
    """The checkpoints that were set aside."""
    return sorted(folder.parent.glob(f"{folder.name}.damaged*"))


def discard(place: Path) -> None:
    """Delete one checkpoint, if it is there; files that are not of it stay."""
    if place.exists():
        delete_known(place, FILES, PATTERNS)


def _opened(place: Path) -> dict[str, Any]:
    try:
        content = parse_json((place / RECORD).read_text())
        digest = content.pop("sha256", None)
    except (OSError, ValueError, AttributeError, TypeError):
        raise _Damaged(f"{RECORD} cannot be read") from None
    if digest is None and "epoch" in content:
        raise InputError(
            f"{place} was written by an earlier version of px_seg: finish the run with that one, or delete the "
            "checkpoint, and --resume trains again from the masks"
        )
    if digest != _own(content):
        raise _Damaged(f"{RECORD} is not as it was written")
    if content.pop("format") != FORMAT:
        raise InputError(f"{place} was written by another version of px_seg: finish the run with that one")
    there = _files(place)
    for name, digest in content.pop("files").items():
        try:
            if name not in there:
                raise _Damaged(f"{name} is missing")
            if sha256_of(there[name]) != digest:
                raise _Damaged(f"{name} is not as it was written")
        except OSError:
            raise _Damaged(f"{name} cannot be read") from None
    return content


def _files(place: Path) -> dict[str, Path]:
    return {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}


def _own(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _former(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _aside(folder: Path) -> Path:
    names = (f"{folder.name}.damaged{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(place for name in names if not (place := folder.with_name(name)).exists())
