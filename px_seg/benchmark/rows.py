"""Rows of a benchmark, in a CSV file to which they are added as they are measured."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from px_seg.errors import InputError, one_line
from px_seg.files import replacing

R = TypeVar("R")


@dataclass(frozen=True)
class PrunedRow:
    """What was pruned, and how it was measured: the columns that such rows have in common."""

    encoder: str
    weights: str
    root: str
    output_stride: int
    side: int
    batch_size: int
    prune_images: int
    threads: int
    seed: int
    method: str
    sparsity: float

    @property
    def cell(self) -> tuple[Any, ...]:
        """All of it."""
        return tuple(getattr(self, field.name) for field in fields(PrunedRow))


def read_rows(file: Path, kind: type[R]) -> list[R]:
    """The rows of a file, each a dataclass `kind`; none where there is no file. InputError for a file of others."""
    if not file.exists():
        return []
    kinds: dict[str, Any] = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    try:
        with file.open(newline="") as lines:
            return [kind(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(lines)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} cannot be read as rows of this benchmark: {one_line(error)}") from None


def write_rows(file: Path, rows: Iterable[Any]) -> None:
    """Write rows of one dataclass in place of those that are there. InputError where they cannot be."""
    every = list(rows)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh, fresh.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, [field.name for field in fields(every[0])], lineterminator="\n")
            writer.writeheader()
            writer.writerows(_plain(row) for row in every)
    except OSError as error:
        raise InputError(f"{file.parent} cannot be written to ({error.strerror}): give another --output") from None


def _plain(row: Any) -> dict[str, Any]:
    """The row for a file, its sparsity in all digits, by which it is found again."""
    rounded = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
    return {**rounded, "sparsity": repr(row.sparsity)}
