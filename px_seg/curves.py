"""How curves look in every figure, where a sparsity lies on its axis, and how a figure is saved."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED = "#0072B2", "#E69F00", "#999999", "#D55E00"
GREEN, PINK, SKY = "#009E73", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, "#000000", GREY)
"""From Okabe and Ito's palette, which colour-blind readers can tell apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h", ">")

LINES = ("-", "--", "-.", ":")

FORMATS = ("png", "svg")


def style(number: int) -> tuple[str, str, str]:
    """Colour, marker and line of a curve, by its place: colour and marker together are one curve's alone, up to 88.

    Neighbours differ in all three, so that grey print tells them apart.
    """
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], LINES[number % len(LINES)]


def place(sparsity: float) -> float:
    """Where a sparsity lies: equally far from the next for equal ratios of the weights kept, as the paper's do."""
    return -math.log(1 - sparsity)


def legend_size(names: Sequence[str], width: float) -> tuple[int, float]:
    """A legend below a figure of `width` inches: its columns, and what lines of it beyond three add in inches.

    As many columns as fit with these names in 9 points.
    """
    columns = max(1, min(len(names), int(13.3 * width) // (max(map(len, names)) + 9)))
    return columns, 0.19 * max(0, -(-len(names) // columns) - 3)


def save(figure: Figure, folder: Path, name: str) -> None:
    """NAME.png and NAME.svg in the folder."""
    # Without a date, and with names that depend on the figure alone, the same runs make the same file.
    with rc_context({"svg.hashsalt": name}):
        for ending in FORMATS:
            metadata = {"Date": None} if ending == "svg" else {}
            figure.savefig(folder / f"{name}.{ending}", dpi=200, metadata=metadata)
