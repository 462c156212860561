"""The folder of a comparison: rows as they come, then their table and figures."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

import yaml

from px_seg.comparison.kind import Kind, R
from px_seg.errors import InputError
from px_seg.files import locked, read_yaml, write_text

SETTINGS = "settings.yaml"
"""What the rows were measured with."""

FILES = "criteria_files"
"""The key of the settings under which digests of users' criteria files are, by method."""


class ComparisonFolder(Generic[R]):
    """The rows measured so far, under settings that decide them beside their keys, with their table and figures.

    `kind` says what the rows are; `files` are digests of what decides the rows of some methods alone, by method. What a
    folder of an earlier version does not say of the settings is `usual`.

    Raises InputError where the folder holds something else, or rows of other settings or files. Nothing is written
    before `complete`.
    """

    def __init__(
        self,
        kind: Kind[R],
        path: Path,
        settings: Mapping[str, Any],
        files: Mapping[str, str] | None = None,
        usual: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        # As a YAML file gives them back.
        self.path, self.settings = path, yaml.safe_load(yaml.safe_dump(dict(settings), sort_keys=False))
        self.files = dict(files or {})
        self.usual = {key: value for key, value in (usual or {}).items() if key in self.settings}
        self._check()

    def complete(
        self, wanted: Mapping[tuple[Any, ...], Callable[[], R]], images: int, title: str, say: Callable[[str], Any]
    ) -> list[R]:
        """The rows wanted, those that are missing measured; then their table and figures.

        A row is written as soon as it is known, beside those that another process has written since, so that the same
        request goes on where it was stopped. A network that cannot be pruned or compared is named and the rest
        compared; InputError at the end where there is one.
        """
        with self._writing():
            # Another process may have come first.
            files = self._check() | self.files
            write_text(self.path / SETTINGS, yaml.safe_dump({**self.settings, FILES: files}, sort_keys=False))
        failures = []
        for number, (key, measure) in enumerate(wanted.items(), 1):
            if key in self._rows():
                continue
            try:
                row = measure()
            except InputError as error:
                failures.append(f"{key[0]} {key[1]:.2%} seed {key[2]}: {error}")
                say(f"not compared: {failures[-1]}")
                continue
            with self._writing():
                self.kind.write(self.path, [*(self._rows() | {key: row}).values()])
            say(f"{number} of {len(wanted)}: {self.kind.said(row)}")
        rows = self._rows()
        found = [rows[key] for key in wanted if key in rows]
        if found:
            written = self.kind.table(found, images)
            write_text(self.path / f"{self.kind.name}.md", written + "\n")
            self.kind.draw(self.path, found, title)
            say(f"{written}\nwritten to {self.path}")
        if failures:
            many = f"{len(failures)} of {len(wanted)} networks could not be compared"
            raise InputError(f"{many}; the first: {failures[0]}")
        return found

    def _check(self) -> dict[str, str]:
        """See that what is there is of this comparison, and that there can be more; the files known there."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: give an --output_dir that is a folder, or does not exist")
        file = self.path / SETTINGS
        known: dict[str, str] = {}
        # What an interrupted write leaves behind is nobody's.
        held = [path for path in _entries(self.path) if path.suffix != ".new"]
        if not file.is_file() and held:
            raise InputError(f"{self.path} holds something else: give an --output_dir that is empty, or does not exist")
        if file.is_file():
            former = read_yaml(file, "the settings of a comparison")
            if isinstance(former, dict) and isinstance(former.get(FILES), dict):
                known = former.pop(FILES)
            if isinstance(former, dict):
                former = {**self.usual, **former}
            if former != self.settings:
                raise InputError(
                    f"{self.path} holds a comparison with other settings ({_difference(former, self.settings)}): "
                    "give another --output_dir"
                )
            if changed := [method for method, found in self.files.items() if known.get(method, found) != found]:
                raise InputError(
                    f"{self.path} holds rows of {changed[0]} by another file of criteria or masks: give another "
                    "--output_dir"
                )
        self._rows()
        place = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{self.path} cannot be written to: give another --output_dir")
        return known

    def _rows(self) -> dict[tuple[Any, ...], R]:
        return {self.kind.key(row): row for row in self.kind.read(self.path)}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The folder, made where it is not there, and locked against other processes; InputError where it cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                yield
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise InputError(f"{self.path} cannot be written to ({why}): give another --output_dir") from None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): give another --output_dir") from None


def _difference(former: Any, now: Mapping[str, Any]) -> str:
    """The first setting that differs, and how."""
    if not isinstance(former, dict):
        return f"{SETTINGS} is damaged"
    missing = "not there"
    key = next(key for key in (*now, *former) if former.get(key, missing) != now.get(key, missing))
    return f"{key} is {former.get(key, missing)} there, {now.get(key, missing)} now"
