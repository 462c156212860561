"""The folder of a comparison: rows as they come, then their table and figure."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from px_seg.comparison.figure import draw
from px_seg.comparison.rows import Row, read_rows, table, write_rows
from px_seg.errors import InputError
from px_seg.files import locked, read_yaml, write_text

ROWS, TABLE, FIGURE, SETTINGS = "preservation.csv", "preservation.md", "preservation", "settings.yaml"
"""What a comparison writes."""

FILES = "criteria_files"
"""The key of the settings under which digests of users' criteria files are, by method."""

Key: TypeAlias = tuple[str, float, int]
"""Method, sparsity and seed of a row."""


class ComparisonFolder:
    """The rows measured so far, under settings that decide them beside their keys.

    `files` are digests of what decides the rows of some methods alone, by method.

    Raises InputError where the folder holds something else, or rows of other settings or files. Nothing is written
    before `complete`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
        # As a YAML file gives them back.
        self.path, self.settings = path, yaml.safe_load(yaml.safe_dump(dict(settings), sort_keys=False))
        self.files = dict(files or {})
        self._check()

    def complete(
        self, wanted: Mapping[Key, Callable[[], Row]], images: int, title: str, say: Callable[[str], Any]
    ) -> list[Row]:
        """The rows wanted, those that are missing measured; then their table and figure.

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
                write_rows(self.path / ROWS, [*(self._rows() | {key: row}).values()])
            say(f"{number} of {len(wanted)}: {_said(row)}")
        rows = self._rows()
        found = [rows[key] for key in wanted if key in rows]
        if found:
            written = table(found, images)
            write_text(self.path / TABLE, written + "\n")
            draw(self.path, FIGURE, found, title)
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
            if former != self.settings:
                raise InputError(
                    f"{self.path} holds a comparison with other settings ({_difference(former, self.settings)}): "
                    "give another --output_dir"
                )
            if changed := [method for method, found in self.files.items() if known.get(method, found) != found]:
                raise InputError(
                    f"{self.path} holds rows of {changed[0]} by another criteria file: give another --output_dir"
                )
        self._rows()
        place = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{self.path} cannot be written to: give another --output_dir")
        return known

    def _rows(self) -> dict[Key, Row]:
        return {row[:3]: row for row in read_rows(self.path / ROWS)}

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
    key = next(key for key in (*now, *former) if former.get(key) != now.get(key))
    return f"{key} is {former.get(key)} there, {now.get(key)} now"


def _said(row: Row) -> str:
    last = list(row.cka)[-1]
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}: CKA of {last} {row.cka[last]:.3f}, "
        f"equal predictions {row.agreement:.1%}, error {row.error:.3f}"
    )
