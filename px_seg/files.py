"""Paths and YAML files that a user wrote, and files that are written whole or not at all."""

import errno
import json
import os
import secrets
import shutil
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from px_seg.errors import InputError, one_line


def user_path(text: str | Path, key: str) -> Path:
    """The path, `~` resolved. InputError, naming the setting, for what cannot be one."""
    if not str(text):
        raise InputError(f"{key} is empty: give a path, or leave it out")
    if "\0" in str(text):
        raise InputError(f"{key} {str(text)[:80]!r} cannot be a path: it holds a null character")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{key} {str(text)[:80]!r} cannot be a path: {error}"[:200]) from None
    return path


UNDER_WAY = ".new-"
"""How the name of a folder begins whose files are to take the place of others once all are written."""

DEEPEST = 50
"""Levels of nesting that a YAML file may have."""


class _Plain(yaml.SafeLoader):
    """YAML in which a key stands once, of which PyYAML takes the last, and in which nothing refers to anything else.

    Ten lines of references to references stand for more values than fit into any memory.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise _Refused(f"refers to another of its values on line {line}: write the value itself there")
        self.depth += 1
        if self.depth > DEEPEST:
            raise _Refused(f"is nested more than {DEEPEST} levels deep: no setting is")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        places: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in places:
                    raise _Refused(f"has the key {key.value} twice, on lines {places[key.value]} and {line}: keep one")
                places[key.value] = line
        return super().construct_mapping(node, deep)


class _Refused(yaml.YAMLError):
    pass


def parse_json(text: str | bytes) -> Any:
    """The value that JSON text holds. ValueError for any other text, also for lists in lists in lists without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds: values alone, of YAML's own kinds.

    InputError, which calls it `what`, when it cannot be read, has a key twice, refers to its own values, is nested too
    deep, or asks for an object of Python's.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from None
    except _Refused as error:
        raise InputError(f"{what} {path} {error}") from None
    except Exception as error:
        # Values of YAML's own kinds, such as dates, fail in ways of their own where they are none.
        raise InputError(f"{what} {path} is not YAML: {one_line(error)}") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the context no other process is in this context for the same folder; it waits for one that is.

    A process that dies leaves no lock behind. Windows locks no folders.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Lock:
    """A file that one process holds at a time, and whose text names that process.

    It is free again when the process has ended, however that came about. Windows, and file systems that know no
    locks, lock no files.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        """The lock, or None while another process holds it; the file is made where there is none."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _free(descriptor):
                os.close(descriptor)
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            # Its last holder has deleted the file between the two.
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return cls(descriptor)

    @staticmethod
    def holder(path: Path) -> str | None:
        """Who holds the lock; None where nobody does. This process must not be the one."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if _free(descriptor):
                return None
            return os.read(descriptor, 200).decode(errors="replace") or "a process that has just begun"
        finally:
            os.close(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


def _free(descriptor: int) -> bool:
    """Whether a file was locked by nobody else; it is by this process then."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        # Not flock, which a forked data loader would hold on to after the death of this process.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` at the end of the context.

    Whoever opens `path` sees the former file or the new one, whole, even after a power cut. After an error
    the former file is as it was.
    """
    # A name of its own, for others may be writing the same file.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        yield fresh
        flush(fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `replacing` does."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def make_folder(folder: Path, what: str) -> None:
    """Make a folder where it is not there. InputError, which begins with `what`, unless it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{what} {folder} cannot be a folder that is written to: {error.strerror}") from None


def check_room(folder: Path, size: int, what: str) -> None:
    """Raise InputError, before anything is written, unless so many bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(f"no room for {what}: it takes {size:,} bytes, and {free:,} are free at {folder}; {ROOM}")


@contextmanager
def told_when_full(folder: Path, what: str) -> Iterator[None]:
    """Within the context, which writes to the disk of `folder`, an error because it is full is an InputError.

    Libraries that write files have exceptions of their own for it, so what their messages say counts as well.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)
        # torch says no more than that its stream failed.
        if full or (isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < _FULL):
            free = shutil.disk_usage(folder).free
            raise InputError(f"no space left for {what}: {free:,} bytes are free at {folder}; {ROOM}") from None
        raise


ROOM = "make room, and --resume goes on from what was saved last"
"""The way out of a full disk, for a run."""


_FULL = 2**20
"""Free bytes below which a write that failed, failed for want of them."""


def delete_known(folder: Path, names: Collection[str], patterns: Sequence[str] = ()) -> None:
    """Delete the files of these names or patterns in a folder, and the folder if that was all; what is not known stays.

    A link is deleted, not what it leads to.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for path in folder.iterdir():
        known = path.name in names or any(path.match(pattern) for pattern in patterns)
        if known and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def sweep_up(folder: Path, names: Collection[str]) -> None:
    """Delete files of these names from folders in `folder` that were under way, and those left empty."""
    for left in folder.glob(f"{UNDER_WAY}*"):
        if left.is_dir() and not left.is_symlink():
            delete_known(left, names)


def flush(path: Path) -> None:
    """Return once a file is on the disk, or a folder's list of names; of a folder's files see `flush_tree`."""
    if os.name != "posix" and path.is_dir():
        # Windows has no such call for folders, and writes the list of names itself.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Return once a folder, and everything in it, is on the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
