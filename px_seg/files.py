"""Paths and YAML files that a user wrote, and files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key stands once; PyYAML takes the last of several and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        places: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in places:
                    raise _Twice(f"has the key {key.value} twice, on lines {places[key.value]} and {line}: keep one")
                places[key.value] = line
        return super().construct_mapping(node, deep)


class _Twice(yaml.YAMLError):
    pass


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds. InputError, which calls it `what`, when it cannot be read or has a key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from None
    except _Twice as error:
        raise InputError(f"{what} {path} {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
