"""The folder of a comparison: rows as they come, then their table and figure."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from px_seg.comparison.figure import draw
from px_seg.comparison.rows import Row, read_rows, table, write_rows
from px_seg.errors import InputError
from px_seg.files import write_text
from px_seg.pruning import NoPathLeft, NothingToRank

ROWS, TABLE, FIGURE, SETTINGS = "preservation.csv", "preservation.md", "preservation", "settings.yaml"
"""What a comparison writes."""

Key: TypeAlias = tuple[str, float, int]
"""Method, sparsity and seed of a row."""


class ComparisonFolder:
    """The rows measured so far, under settings that decide them beside their keys.

    Raises InputError where the folder holds something else, or rows of other settings; nothing is written before the
    first row is measured.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, yaml.safe_dump(dict(settings), sort_keys=False)
        file = path / SETTINGS
        if file.is_file():
            if file.read_text(encoding="utf-8") != self.settings:
                raise InputError(f"{path} holds a comparison with other settings: give another --output_dir")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} holds something else: give an --output_dir that is empty, or does not exist")
        self.rows = {row[:3]: row for row in read_rows(path / ROWS)}

    def complete(
        self, wanted: Mapping[Key, Callable[[], Row]], images: int, title: str, say: Callable[[str], Any]
    ) -> list[Row]:
        """The rows wanted, those that are missing measured; then their table and figure.

        A row is written as soon as it is known, so that the same request goes on where it was stopped. A network that
        nothing connects is named and the rest compared; InputError at the end where there is one.
        """
        failures = []
        for number, (key, measure) in enumerate(wanted.items(), 1):
            if key in self.rows:
                continue
            try:
                self.rows[key] = measure()
            except (NoPathLeft, NothingToRank) as error:
                failures.append(f"{key[0]} {key[1]:.2%} seed {key[2]}: {error}")
                say(f"not compared: {failures[-1]}")
                continue
            self._write()
            say(f"{number} of {len(wanted)}: {_said(self.rows[key])}")
        found = [self.rows[key] for key in wanted if key in self.rows]
        if found:
            written = table(found, images)
            write_text(self.path / TABLE, written + "\n")
            draw(self.path, FIGURE, found, title)
            say(f"{written}\nwritten to {self.path}")
        if failures:
            many = f"{len(failures)} of {len(wanted)} networks could not be compared"
            raise InputError(f"{many}; the first: {failures[0]}")
        return found

    def _write(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / SETTINGS, self.settings)
        write_rows(self.path / ROWS, list(self.rows.values()))


def _said(row: Row) -> str:
    last = list(row.cka)[-1]
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}: CKA of {last} {row.cka[last]:.3f}, "
        f"equal predictions {row.agreement:.1%}, error {row.error:.3f}"
    )
