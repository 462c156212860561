"""Tables of rows in Markdown: means over seeds, a line a method and sparsity."""

from collections.abc import Iterable, Sequence

from px_seg.comparison.kind import R, Row


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
