"""Files of rows: CSVs that are written whole, and refused where they are damaged."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from px_seg.comparison.kind import KEY, Key, Row, key_of
from px_seg.errors import InputError
from px_seg.files import write_text

T = TypeVar("T")


def key_columns(row: Row) -> dict[str, Any]:
    """Whose line it is, as columns of a file of its details."""
    return dict(zip(KEY, key_of(row), strict=True))


def key_in(line: Mapping[str, str]) -> Key:
    """What `key_columns` wrote. ValueError or KeyError for what it did not."""
    return line["method"], number(line["sparsity"], 0, 1), int(line["seed"])


def write_csv(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A CSV with a column for each key, at once or not at all."""
    lines = list(lines)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def read_csv(path: Path, parse: Callable[[dict[str, str]], T], key: Callable[[T], object] | None = None) -> list[T]:
    """What `parse` makes of each line; nothing where there is no file.

    InputError for a file that cannot be read, is cut off, has a line of which `parse` raises ValueError or KeyError,
    or two of one `key`.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(text.splitlines(), strict=True)
        found = [parse(line) for line in reader if _is_whole(line)]
        if not text.endswith("\n") or (key and len(set(map(key, found))) < len(found)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error):
        raise damaged(path) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return found


def _is_whole(line: Mapping[str | None, Any]) -> bool:
    if None in line or None in line.values():
        raise ValueError(line)
    return True


def damaged(path: Path, *beside: Path) -> InputError:
    """Says that a file of rows is not what was written; those `beside` it are of no use without it."""
    files = " and ".join(map(str, (path, *beside)))
    return InputError(f"{path} is damaged, or of another version: repair it, or delete {files} to measure again")


def number(text: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The number that the text is, between two bounds. ValueError for another, and for none."""
    value = float(text)
    if not low <= value <= high:
        raise ValueError(text)
    return value
