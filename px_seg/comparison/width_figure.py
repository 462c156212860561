"""The figures of widths: live channels of every layer, and the flow of R into every residual sum."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from px_seg.analysis import Split
from px_seg.comparison.row_tables import cells_of
from px_seg.comparison.width_rows import WidthRow, starves
from px_seg.curves import BLUE, GREY, RED, legend_size, save, style

ACROSS = 5
"""Panels beside each other."""


def draw(folder: Path, rows: Sequence[WidthRow], title: str) -> None:
    """widths.png, and flow.png where the network has residual sums, each also as .svg."""
    draw_widths(folder, rows, title)
    if any(row.sums for row in rows):
        draw_flow(folder, rows, title)


def draw_widths(folder: Path, rows: Sequence[WidthRow], title: str) -> None:
    """Output channels on a path in every layer from the input on, a panel a sparsity, means over seeds."""
    layers = list(rows[0].layers)
    names = _shortened(layers)
    full = np.array([rows[0].layers[layer].channels for layer in layers])
    pruned = {key: same for key, same in cells_of(rows).items() if key[1]}
    methods = list(dict.fromkeys(method for method, _ in pruned))
    sparsities = sorted({sparsity for _, sparsity in pruned})
    width = max(8.0, 0.19 * len(layers) + 2)
    legend, more = legend_size(["dense", *methods], width)
    figure = Figure(figsize=(width, 2.2 * len(sparsities) + 1.1 + _height(names) + more), layout="constrained")
    grid = figure.subplots(len(sparsities), 1, squeeze=False, sharex=True)[:, 0]
    places = np.arange(len(layers))
    for axes, sparsity in zip(grid, sparsities, strict=True):
        axes.bar(places, full, width=0.9, color=GREY, alpha=0.35, label="dense")
        for number, method in reversed(list(enumerate(methods))):
            if not (same := pruned.get((method, sparsity))):
                continue
            colour, marker, line = style(number)
            live = np.array([[row.layers[layer].live for layer in layers] for row in same]).mean(0)
            axes.plot(places, live, line, marker=marker, color=colour, markersize=4, linewidth=1.2, label=method)
            dead = places[live == 0].tolist()
            _mark(axes, dead, "x")
        axes.set_title(f"{100 * sparsity:g}% pruned", fontsize=10)
        axes.set(ylabel="channels on a path", xlim=(-0.7, len(layers) - 0.3), ylim=(0, None))
        axes.grid(axis="y", alpha=0.3)
    grid[-1].set_xticks(places, names, rotation=90, fontsize=7)
    grid[-1].set_xlabel("layer, from the image on")
    handles = {name: line for axes in grid for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = ["dense", *methods]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=legend, fontsize=9)
    figure.suptitle(f"{title} (red cross: none)", fontsize=11)
    save(figure, folder, "widths")


def draw_flow(folder: Path, rows: Sequence[WidthRow], title: str) -> None:
    """How R reaches every residual sum, a panel a sparsity and method, of its lowest seed: branch over shortcut."""
    cells = {key: min(same, key=lambda row: row.seed) for key, same in cells_of(rows).items()}
    methods = list(dict.fromkeys(method for method, sparsity in cells if sparsity))
    sparsities = sorted({sparsity for _, sparsity in cells if sparsity})
    dense = [row for (_, sparsity), row in cells.items() if not sparsity]
    shown = [("dense", row) for row in dense[:1]]
    for sparsity in sparsities:
        for method in methods:
            if row := cells.get((method, sparsity)):
                shown.append((f"{method}, {100 * sparsity:g}%", row))
    columns = min(ACROSS, len(shown))
    lines = -(-len(shown) // columns)
    sums = list(rows[0].sums)
    names = _shortened(sums)
    size = max(2.2, 0.2 * len(sums) + 0.4)
    figure = Figure(figsize=(size * columns + 0.8, 2.1 * lines + 0.9 + _height(names)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.ravel()):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        what, row = shown[place]
        _bars(axes, [row.sums.get(name, Split(0.0, 0.0)) for name in sums])
        axes.set_title(textwrap.fill(what, int(13 * size)), fontsize=8)
        # Names below the last panel of a column alone.
        last = place + columns >= len(shown)
        axes.set_xticks(range(len(sums)), names if last else [""] * len(sums), rotation=90, fontsize=7)
        axes.tick_params(axis="y", labelsize=8)
    grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend = [
        Patch(color=BLUE, label="through the branch"),
        Patch(color=GREY, alpha=0.5, label="through the shortcut"),
        Patch(color=RED, label="branch starves: below 1% of its sum"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of R into the sum", fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, "flow")


def _bars(axes: Axes, splits: Sequence[Split]) -> None:
    places = np.arange(len(splits))
    branch, shortcut = (np.array([split[side] for split in splits]) for side in (0, 1))
    axes.bar(places, branch, width=0.85, color=BLUE)
    axes.bar(places, shortcut, width=0.85, bottom=branch, color=GREY, alpha=0.5)
    starved = [place for place, split in enumerate(splits) if starves(split)]
    _mark(axes, starved, "v")
    axes.set(xlim=(-0.7, len(splits) - 0.3), ylim=(0, 1.02))
    axes.grid(axis="y", alpha=0.3)


def _mark(axes: Axes, places: Sequence[int], marker: str) -> None:
    """Red marks on the axis, none of which is cut off; a line without points would keep the figure from a layout."""
    if len(places):
        axes.plot(places, [0] * len(places), marker, color=RED, markersize=6, clip_on=False, zorder=5)


def _height(names: Sequence[str]) -> float:
    """Inches that upright names in 7 points take."""
    return 0.07 * max(map(len, names))


def _shortened(names: Sequence[str]) -> list[str]:
    """Names without what all begin with, whole parts of them."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return [".".join(part[common:]) for part in parts]
