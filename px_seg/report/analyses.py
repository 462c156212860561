"""What was found about a sweep's networks without training them, in its folder `analysis`."""

from pathlib import Path

from px_seg.errors import InputError
from px_seg.sweep.plan import ANALYSIS

FIGURES = {
    "ntk/ntk": "before training: eigenvalues of the Neural Tangent Kernel, geometric means over seeds",
    "widths/widths": "before training: channels on a path in every layer, means over seeds",
    "widths/flow": "before training: how the bound R enters every residual sum, of the lowest seed",
    "rounds/rounds": "how masks settle: kept weights that are not those of most rounds and all images",
    "rounds/rounds_flow": "how branches starve while the network is pruned: the share of R that passes each",
    "preservation/preservation": "before training: how well the pruned network still is the dense one",
}
"""By the path of a figure without its ending, what it shows."""

TABLES = ("ntk", "widths", "rounds", "preservation")


def figures_in(folder: Path) -> dict[str, str]:
    """The figures in a sweep's folder by what they show, as paths from that of the report."""
    there = {shows: f"{ANALYSIS}/{name}.svg" for name, shows in FIGURES.items()}
    return {shows: f"../{path}" for shows, path in there.items() if (folder / path).is_file()}


def tables_in(folder: Path) -> list[str]:
    """The tables in a sweep's folder, as Markdown. InputError for one that cannot be read."""
    found = []
    for name in TABLES:
        file = folder / ANALYSIS / name / f"{name}.md"
        if file.is_file():
            try:
                found.append(file.read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError):
                raise InputError(f"{file} cannot be read: delete it, or repeat the command that wrote it") from None
    return found
