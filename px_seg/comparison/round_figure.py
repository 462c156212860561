"""The figures of how masks settle."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from px_seg.comparison.round_rows import REFERENCE, RoundsRow
from px_seg.curves import legend_size, save, style

WIDTH = 12.0
"""Inches."""

NONE = 1e-6
"""Where no difference at all is drawn."""

LOWEST = 1e-8
"""Where the axis of flows ends."""


def draw(folder: Path, rows: Sequence[RoundsRow], title: str) -> None:
    """rounds.png, what settles with what, and rounds_flow.png, the flow through branches by round; also as .svg."""
    references = [row for row in rows if row.varied == REFERENCE]
    if references:
        draw_settling(folder, rows, title)
    if any(point.branches for row in references for point in row.course):
        draw_flow(folder, rows, title)


def draw_settling(folder: Path, rows: Sequence[RoundsRow], title: str) -> None:
    """Kept weights that are not the reference's, by round, by rounds, by images and by draw, a line a method."""
    names = [_named(row) for row in rows if row.varied == REFERENCE]
    references = {_named(row): row for row in rows if row.varied == REFERENCE}
    columns, more = legend_size(names, WIDTH)
    figure = Figure(figsize=(WIDTH, 3.8 + more), layout="constrained")
    panels: list[tuple[str, Callable[[str], list[tuple[float, float]]]]] = [
        ("round of the reference", lambda name: [(p.round, p.overlap) for p in references[name].course]),
        ("rounds", lambda name: _against(rows, name, "rounds")),
        ("images", lambda name: _against(rows, name, "images")),
        ("other images: draw", lambda name: _against(rows, name, "draw")),
    ]
    panels = [(label, points) for label, points in panels if any(points(name) for name in names)]
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, points) in zip(grid, panels, strict=True):
        for place, name in reversed(list(enumerate(names))):
            colour, marker, line = style(place)
            found = [(x, max(1 - overlap, NONE)) for x, overlap in points(name)]
            if found:
                # Draws have no order.
                line = "" if label.endswith("draw") else line
                axes.plot(*zip(*found, strict=True), linestyle=line, marker=marker, color=colour, label=name)
        axes.set(xlabel=label, yscale="log")
        if label in ("rounds", "images"):
            axes.set_xscale("log")
            ticks = sorted({x for name in names for x, _ in points(name)})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize=8)
            axes.minorticks_off()
        elif label.startswith("round of"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        elif label.endswith("draw"):
            axes.set_xticks(sorted({x for name in names for x, _ in points(name)}))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("kept weights that differ")
    figure.axes[0].yaxis.set_major_formatter(FuncFormatter(_percent))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=columns, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, "rounds")


def draw_flow(folder: Path, rows: Sequence[RoundsRow], title: str) -> None:
    """The share of R that passes each branch, or each layer where there are none, by round of every reference."""
    references = [row for row in rows if row.varied == REFERENCE and row.course[0].branches]
    names = list(references[0].course[0].branches)
    smallest = min(share for row in references for point in row.course for share in point.branches.values())
    lowest = LOWEST if smallest < LOWEST else 10 ** np.floor(np.log10(smallest))
    shades = colormaps["cividis"](np.linspace(0, 1, len(names)))
    columns = min(3, len(references))
    lines = -(-len(references) // columns)
    figure = Figure(figsize=(max(7.0, 4.0 * columns + 1.6), 3.4 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, row in zip(grid, references, strict=False):
        for place, name in enumerate(names):
            points = [(point.round, max(point.branches.get(name, 0.0), LOWEST)) for point in row.course]
            axes.semilogy(*zip(*points, strict=True), color=shades[place], label=name)
        axes.set_title(_named(row), fontsize=9)
        axes.set(xlabel="round", ylim=(lowest, 1.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in grid[len(references) :]:
        axes.set_axis_off()
    _label(grid[0], len(grid), columns, list(grid))
    handles, labels = grid[0].get_legend_handles_labels()
    ncols = -(-len(names) // 24)
    figure.legend(handles, labels, loc="outside right center", fontsize=7, title="branch of", ncols=ncols)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, "rounds_flow")


def _label(first: Axes, count: int, columns: int, grid: Sequence[Axes]) -> None:
    for place in range(0, count, columns):
        grid[place].set_ylabel("share of R")
    first.yaxis.set_major_formatter(
        FuncFormatter(lambda share, _: f"≤ {share:.0e}" if share <= LOWEST else f"{share:g}")
    )


def _named(row: RoundsRow) -> str:
    return f"{row.method}, {100 * row.sparsity:g}%" + (f", seed {row.seed}" if row.seed else "")


def _against(rows: Sequence[RoundsRow], name: str, varied: str) -> list[tuple[float, float]]:
    return sorted((row.value, row.overlap) for row in rows if _named(row) == name and row.varied == varied)


def _percent(share: float, _: int | None) -> str:
    return "none" if share <= NONE else f"{100 * share:g}%"
