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


def measure_missing(
    folder: Path,
    settings: Mapping[str, Any],
    wanted: Mapping[Key, Callable[[], Row]],
    images: int,
    title: str,
    say: Callable[[str], Any],
) -> list[Row]:
    """The rows wanted, each from the folder where it is there and measured where it is not.

    A row is written as soon as it is known, so that the same request goes on where it was stopped. `settings` are what
    decides rows beside their keys; nothing is written before the first row is measured. A network that nothing connects
    is named, and the rest compared. Raises InputError for a folder that holds something else, or other settings, and at
    the end where a network could not be compared.
    """
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    _check(folder, text)
    rows = {row[:3]: row for row in read_rows(folder / ROWS)}
    failures = []
    for number, (key, measure) in enumerate(wanted.items(), 1):
        if key in rows:
            continue
        try:
            row = rows[key] = measure()
        except (NoPathLeft, NothingToRank) as error:
            failures.append(f"{key[0]} {key[1]:.2%} seed {key[2]}: {error}")
            say(f"not compared: {failures[-1]}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SETTINGS, text)
        write_rows(folder / ROWS, list(rows.values()))
        say(f"{number} of {len(wanted)}: {_said(row)}")
    found = [rows[key] for key in wanted if key in rows]
    if found:
        written = table(found, images)
        write_text(folder / TABLE, written + "\n")
        draw(folder, FIGURE, found, title)
        say(f"{written}\nwritten to {folder}")
    if failures:
        many = f"{len(failures)} of {len(wanted)} networks could not be compared"
        raise InputError(f"{many}; the first: {failures[0]}")
    return found


def _check(folder: Path, settings: str) -> None:
    path = folder / SETTINGS
    if path.is_file():
        if path.read_text(encoding="utf-8") != settings:
            raise InputError(f"{folder} holds a comparison with other settings: give another --output_dir")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something else: give an --output_dir that is empty, or does not exist")


def _said(row: Row) -> str:
    last = list(row.cka)[-1]
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}: CKA of {last} {row.cka[last]:.3f}, "
        f"equal predictions {row.agreement:.1%}, error {row.error:.3f}"
    )
