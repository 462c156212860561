"""Files are checked once: those found good are on record, and are not decoded again until they change.

A record is a file in `record_folder()`, one for each check and folder of data. It holds, for every sample, size and
time of change of its files, and what the check returned.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import PIL

from px_seg.errors import InputError
from px_seg.files import parse_json, replacing
from px_seg.progress import bar

T = TypeVar("T")
"""What JSON can hold."""

VERSION = [4, PIL.__version__]
"""What another version found is checked again. Raise the number when a check refuses or returns something else."""

Stamp = list[int]
"""Size and mtime in nanoseconds of each file of a sample, one after the other."""


class Filed(Protocol):
    """A dataset that can name its files."""

    def __len__(self) -> int: ...

    def files(self, index: int) -> tuple[Path, ...]: ...


class Checked(NamedTuple):
    """The outcome of checking a whole dataset."""

    values: dict[int, Any]
    """What it returned, by the index of the sample, in order."""
    faults: dict[int, InputError]
    """What it raised."""
    notes: list[str]
    """What the user should be told."""


class Check(Protocol):
    """`check_all`, or `check_each`."""

    def __call__(self, read: Callable[[int], Any], data: Filed, what: str, check: str) -> Checked: ...


def check_all(read: Callable[[int], T], data: Filed, what: str, check: str) -> Checked:
    """What `read` returns for every index, so that a damaged file is found now and not after hours of work.

    `read` is called for the samples that have no files, that are not on record, or whose files have
    changed since. `check` names all that its result depends on besides the files. What `read`
    raises is raised, after what was good until then is on record.
    """

    def refuse(index: int, error: InputError) -> None:
        raise error

    return _checked(read, data, what, check, refuse)


def check_each(read: Callable[[int], T], data: Filed, what: str, check: str) -> Checked:
    """The same, going on after each sample that is refused."""
    faults: dict[int, InputError] = {}
    found = _checked(read, data, what, check, faults.__setitem__)
    return found._replace(faults=dict(sorted(faults.items())))


def _checked(
    read: Callable[[int], T], data: Filed, what: str, check: str, refused: Callable[[int, InputError], None]
) -> Checked:
    paths = [[os.path.abspath(file) for file in data.files(index)] for index in range(len(data))]
    folder = common_folder(list(chain.from_iterable(paths)))
    names = ["\n".join(path.removeprefix(folder) for path in files) for files in paths]
    # Before anything is read: a file that changes meanwhile does not fit its stamp afterwards.
    stamps = list(_stamps(paths, what))
    record = _Record(folder, check)
    held = record.read() if folder else {}
    values = {
        index: held[name][1]
        for index, (name, stamp) in enumerate(zip(names, stamps, strict=True))
        if stamp and name in held and held[name][0] == stamp
    }
    found: dict[str, list] = {}
    notes: list[str] = []
    try:
        for index, value in _results(read, [index for index in range(len(data)) if index not in values], what):
            if isinstance(value, InputError):
                refused(index, value)
                continue
            values[index] = value
            if stamps[index]:
                found[names[index]] = [stamps[index], value]
    finally:
        if found:
            notes = record.write(held | found)
    return Checked(dict(sorted(values.items())), {}, notes)


def _results(read: Callable[[int], T], indices: Sequence[int], what: str) -> Iterator[tuple[int, T | InputError]]:
    """The indices, in order, and what `read` returns, or raises, for each, several being read at a time."""

    def tried(index: int) -> T | InputError:
        try:
            return read(index)
        except InputError as error:
            return error

    with ThreadPoolExecutor() as pool:
        results = pool.map(tried, indices)
        shown = bar(results, desc=f"checking {what}", total=len(indices), unit="image", show=len(indices) > 0)
        try:
            yield from zip(indices, shown, strict=True)
        finally:
            # Where one is refused, those that wait are not to be read first.
            pool.shutdown(wait=False, cancel_futures=True)


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all of these are in; empty for none."""
    if not paths:
        return ""
    # What the first and the last in alphabetical order have in common, those between them have too.
    return os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))])


def record_folder() -> Path | None:
    """$PX_SEG_CACHE, or px_seg in the user's cache folder; None for a user without a home."""
    try:
        if given := os.environ.get("PX_SEG_CACHE"):
            return Path(given).expanduser()
        caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG specification says to take no notice of a relative one.
        return (caches if caches.is_absolute() else Path("~/.cache").expanduser()) / "px_seg"
    except RuntimeError:
        return None


class _Record:
    """What is on record of one check of the files below `data`.

    The first line is the SHA-256 of the second, which is JSON: version, check, folder of the data, and by the
    names of a sample's files in it the stamp and what the check returned.
    """

    def __init__(self, data: str, check: str) -> None:
        self.about = {"version": VERSION, "check": check, "data": data}
        self.folder = record_folder()
        self.name = sha256(json.dumps([check, data]).encode()).hexdigest()[:32] + ".checked"

    def read(self) -> dict[str, list]:
        """[stamp, value] by sample; empty where there is no record, or none to be trusted."""
        if self.folder is None:
            return {}
        try:
            digest, _, body = (self.folder / self.name).read_bytes().partition(b"\n")
        except OSError:
            return {}
        # A damaged record may call a bad file good, and costs no more than one check to replace:
        # it is as good as none, and no reason to stop.
        if digest != sha256(body).hexdigest().encode():
            return {}
        content = parse_json(body)
        samples = content.pop("samples")
        return samples if content == self.about else {}

    def write(self, samples: dict[str, list]) -> list[str]:
        """Put these on record in place of what was there; a note where that cannot be done.

        When several runs write at the same time, the last one's record stays, whole; what only another
        had found is checked again.
        """
        if self.folder is None:
            return [_not_recorded("this user has no home folder")]
        body = json.dumps({**self.about, "samples": samples}).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / self.name) as fresh:
                fresh.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
        except OSError as error:
            return [_not_recorded(f"{self.folder}: {error.strerror}")]
        return []


def _not_recorded(reason: str) -> str:
    return (
        f"the record of checked files cannot be written ({reason}), so every run checks them again: "
        "set PX_SEG_CACHE to a writable folder"
    )


def _stamps(paths: Sequence[Sequence[str]], what: str) -> Iterator[Stamp | None]:
    """The stamp of every sample, or None where it has no files or one that cannot be looked at."""
    # On a network each look waits for the server, so many are made at a time; a thread for each would cost more.
    parts = [paths[start : start + 1000] for start in range(0, len(paths), 1000)]
    with ThreadPoolExecutor() as pool:
        looked = pool.map(lambda part: [_stamp(files) for files in part], parts)
        for stamps in bar(looked, desc=f"looking for changed {what}", total=len(parts), show=len(parts) > 10):
            yield from stamps


def _stamp(files: Sequence[str]) -> Stamp | None:
    try:
        seen = [os.stat(file) for file in files]
    except OSError:
        # Reading it will name what is wrong.
        return None
    return [number for file in seen for number in (file.st_size, file.st_mtime_ns)] or None
