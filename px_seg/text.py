"""Text for a terminal."""

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Cells below each other, the first column at the left and the others at the right."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
