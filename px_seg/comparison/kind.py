"""What networks are compared by: rows, the files that hold them, and what is drawn of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Key: TypeAlias = tuple[str, float, int]
"""Method, sparsity and seed of a network; `dense` and 0 for the dense one."""

KEY = ("method", "sparsity", "seed")
"""The columns of a key."""


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
