"""What networks are compared by: rows, the files that hold them, and what is drawn of them."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from px_seg.errors import InputError
from px_seg.files import write_text

Key: TypeAlias = tuple[str, float, int]
"""Method, sparsity and seed of a network; `dense` and 0 for the dense one."""


class Row(Protocol):
    """What was measured of one network."""

    @property
    def method(self) -> str: ...
    @property
    def sparsity(self) -> float: ...
    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=Row)


def key_of(row: Row) -> Key:
    """Whose row it is."""
    return row.method, row.sparsity, row.seed


@dataclass(frozen=True)
class Kind(Generic[R]):
    """One way to compare networks, with the form of its files. Their names begin with `name`."""

    name: str
    read: Callable[[Path], list[R]]
    """The rows in a folder; none where there are none. InputError for damaged ones."""
    write: Callable[[Path, Sequence[R]], None]
    """The same rows into a folder."""
    table: Callable[[Sequence[R], int], str]
    """Rows as Markdown, of so many images."""
    draw: Callable[[Path, Sequence[R], str], None]
    """Their figures, under a title."""
    said: Callable[[R], str]
    """A row in words."""
    key: Callable[[R], tuple[Any, ...]] = key_of
    """What tells rows apart, beginning with method, sparsity and seed."""


def write_csv(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A CSV with a column for each key, at once or not at all."""
    lines = list(lines)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


T = TypeVar("T")


def read_csv(path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """What `parse` makes of each line; nothing where there is no file.

    InputError for a file that cannot be read, is cut off, or has a line of which `parse` raises ValueError or KeyError.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(text.splitlines(), strict=True)
        found = [parse(line) for line in reader if _is_whole(line)]
        if not text.endswith("\n"):
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


def mean_of(values: Iterable[float]) -> float:
    """Their mean, inf where one is."""
    found = list(values)
    return sum(found) / len(found)


def cells_of(rows: Sequence[R]) -> dict[tuple[str, float], list[R]]:
    """The rows of all seeds by method and sparsity, in their order."""
    cells: dict[tuple[str, float], list[R]] = {}
    for row in rows:
        cells.setdefault((row.method, row.sparsity), []).append(row)
    return cells


def named(method: str, sparsity: float, rows: Sequence[Row], seeds: int) -> list[str]:
    """The first cells of a line of a table: method and sparsity, and how many seeds where some are missing."""
    fewer = "" if len(rows) == seeds else f" ({len(rows)} of {seeds} seeds)"
    return [f"`{method}`", f"{100 * sparsity:g}%{fewer}"]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are text and the others numbers."""
    rule = "---|" * left + "---:|" * (len(head) - left)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(line)} |" for line in lines)])


def seeds_of(rows: Sequence[Row]) -> int:
    """How many seeds there are."""
    return len({row.seed for row in rows})


def counted(images: int, seeds: int) -> str:
    """On how much a table rests, in words."""
    return f"on {images} images, {seeds} seed{'s' if seeds > 1 else ''}"
