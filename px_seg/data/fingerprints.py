"""Whether two folders hold the same data, as far as names and sizes of files tell."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from px_seg.data.checked import common_folder
from px_seg.errors import InputError


class Listed(Protocol):
    """A dataset that can name its files."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def files(self, index: int) -> tuple[Path, ...]: ...


def fingerprint(splits: Mapping[str, Listed]) -> str:
    """Sixteen hexadecimal digits that differ where classes, or names or sizes of files do, wherever the files lie.

    Of data that lies in no files the number of images counts. Raises InputError for a file that cannot be looked at.
    """
    found = sha256()
    for split, data in splits.items():
        found.update(repr((split, len(data), tuple(data.classes))).encode())
        paths = [os.path.abspath(file) for index in range(len(data)) for file in data.files(index)]
        if paths:
            folder = common_folder(paths)
            with ThreadPoolExecutor() as pool:
                # On a network each look waits for the server.
                sizes = pool.map(os.path.getsize, paths, chunksize=100)
            try:
                for path, size in zip(paths, sizes, strict=True):
                    found.update(f"{os.path.relpath(path, folder)}\0{size}\0".encode(errors="surrogateescape"))
            except OSError as error:
                raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return found.hexdigest()[:16]
