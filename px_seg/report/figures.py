"""The figures of a report."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from px_seg.curves import RED, legend_size, place, save, style
from px_seg.errors import InputError
from px_seg.metrics import Score
from px_seg.pruning import Masks
from px_seg.report.runs import Panel, numeric
from px_seg.report.statistics import Summary, summary
from px_seg.sweep.methods import DENSE


class Curve(NamedTuple):
    """Scores against whatever is on the x axis."""

    name: str
    points: list[tuple[float, Summary]]


class Plot(NamedTuple):
    """One set of axes."""

    title: str
    curves: list[Curve]
    dense: Summary | None


class XAxis(NamedTuple):
    """What is on the x axis: the places of its ticks, what is written there, and what it is."""

    ticks: list[tuple[float, str]]
    name: str


def curves(folder: Path, name: str, panels: Sequence[Panel], title: str) -> None:
    """Score against sparsity, or against the one number that is varied, as NAME.png and NAME.svg.

    Every panel must have runs that prune.
    Lines are means over seeds, shaded bands one standard deviation either side; the dense network is a dashed line.
    """
    plots, axis = _plots(panels)
    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    entries = list(dict.fromkeys(curve.name for plot in plots for curve in plot.curves))
    width = 6.4 if columns == 1 else 4.6 * columns
    legend, more = legend_size([*entries, DENSE], width)
    figure = Figure(figsize=(width, 4.3 * rows + more), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    score = panels[0].score
    for axes, plot in zip(grid, plots, strict=False):
        _draw(axes, plot, axis, entries, score, width)
        axes.set_title(plot.title, fontsize=10)
        axes.set(xlabel=axis.name, ylabel=score.title)
    for axes in grid[len(plots) :]:
        axes.set_axis_off()
    handles = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [name for name in (DENSE, *entries) if name in handles]
    lines = [handles[name] for name in order]
    figure.legend(lines, order, loc="outside lower center", ncols=min(legend, len(order)), fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, name)


def densities(folder: Path, name: str, panel: Panel, scope: str) -> None:
    """Weights kept in every layer by every method, a table of colours for each sparsity, as NAME.png and NAME.svg.

    Of the lowest seed; a layer without weights is crossed. Raises InputError where masks cannot be read, or are not of
    the same layers in all runs.
    """
    kept: dict[float, dict[str, dict[str, float]]] = {sparsity: {} for sparsity in panel.sparsities}
    for run in sorted(panel.runs, key=lambda run: (panel.methods.index(run.method), run.seed)):
        if run.method not in kept[run.sparsity]:
            kept[run.sparsity][run.method] = Masks.load(run.folder / "masks.safetensors").densities()
    every = [own for methods in kept.values() for own in methods.values()]
    if any(own.keys() != every[0].keys() for own in every):
        raise InputError("not all runs have the same layers")
    layers = list(every[0])
    lowest = max(min(density for own in every for density in own.values() if density > 0), 1e-4)
    counts = [len(methods) for methods in kept.values()]
    height = 2 + 0.55 * len(counts) + 0.26 * sum(counts)
    figure = Figure(figsize=(max(7.5, 0.19 * len(layers) + 2), height), layout="constrained")
    grid = figure.subplots(len(kept), 1, squeeze=False, sharex=True, height_ratios=counts)[:, 0]
    for axes, (sparsity, methods) in zip(grid, kept.items(), strict=True):
        table = np.array([list(own.values()) for own in methods.values()])
        colours = {"cmap": "cividis", "norm": LogNorm(lowest, 1), "edgecolors": "white", "linewidth": 0.5}
        image = axes.pcolormesh(np.ma.masked_equal(table, 0), **colours)
        for row, column in zip(*np.nonzero(table == 0), strict=True):
            axes.plot(column + 0.5, row + 0.5, "x", color=RED, markersize=4)
        axes.set_yticks(np.arange(len(methods)) + 0.5, methods, fontsize=8)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set_title(f"{sparsity:.2%} of the backbone pruned", fontsize=9)
        axes.spines[:].set_visible(False)
    names = [layer.removesuffix(".weight").removeprefix(f"{scope}.") for layer in layers]
    grid[-1].set_xticks(np.arange(len(layers)) + 0.5, names, rotation=90, fontsize=7)
    bar = figure.colorbar(image, ax=list(grid), shrink=min(1, 3 / height), label="weights kept", extend="min")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle("Weights kept in every layer, from the image to the output (red cross: none)", fontsize=10)
    save(figure, folder, name)


def _plots(panels: Sequence[Panel]) -> tuple[list[Plot], XAxis]:
    """What is drawn on which axes."""
    sparsities = sorted({s for panel in panels for s in panel.sparsities})
    methods = list(dict.fromkeys(m for panel in panels for m in panel.methods))
    one_dense = len({tuple(run.folder for run in panel.dense) for panel in panels}) == 1
    found = [numeric(panel.group[0].partition("=")[2]) if len(panel.group) == 1 else None for panel in panels]
    values = [value for value in found if value is not None]
    keys = {panel.group[0].partition("=")[0] for panel in panels if panel.group}
    if len(panels) > 1 and one_dense and len(sparsities) == len(keys) == 1 and len(values) == len(panels):
        return _against_value(panels, values, methods, sparsities[0])
    ticks = [(place(s), f"{100 * s:.2f}".rstrip("0").rstrip(".")) for s in sparsities]
    axis = XAxis(ticks, "sparsity of the backbone (%)")
    if len(panels) > 1 and one_dense and len(methods) == 1:
        together = [Curve(panel.title, _against_sparsity(panel, methods[0])) for panel in panels]
        return [Plot(methods[0], together, _dense(panels[0]))], axis
    return [Plot(p.title, [Curve(m, _against_sparsity(p, m)) for m in p.methods], _dense(p)) for p in panels], axis


def _against_value(
    panels: Sequence[Panel], values: Sequence[float], methods: Sequence[str], sparsity: float
) -> tuple[list[Plot], XAxis]:
    """Score against the number that is varied; positive ones by their logarithm, as they are mostly chosen."""
    places = [math.log2(value) if min(values) > 0 else value for value in values]
    found = [
        Curve(m, [(x, _summary(p, m, sparsity)) for x, p in zip(places, panels, strict=True) if p.of(m, sparsity)])
        for m in methods
    ]
    ticks = [(place, f"{value:g}") for place, value in zip(places, values, strict=True)]
    title = f"{sparsity:.2%} of the backbone pruned"
    return [Plot(title, found, _dense(panels[0]))], XAxis(ticks, panels[0].group[0].partition("=")[0])


def _against_sparsity(panel: Panel, method: str) -> list[tuple[float, Summary]]:
    return [(place(s), _summary(panel, method, s)) for s in panel.sparsities if panel.of(method, s)]


def _summary(panel: Panel, method: str, sparsity: float) -> Summary:
    return summary(list(panel.scores(method, sparsity).values()))


def _dense(panel: Panel) -> Summary | None:
    return summary([run.score for run in panel.dense]) if panel.dense else None


def _draw(axes: Axes, plot: Plot, axis: XAxis, entries: Sequence[str], score: Score, width: float) -> None:
    if plot.dense is not None:
        mean, deviation, _ = plot.dense
        axes.axhline(score.in_units(mean), color="black", linestyle=(0, (6, 3)), linewidth=1.2, label=DENSE)
        if deviation is not None:
            ends = [score.in_units(mean + sign * deviation) for sign in (-1, 1)]
            axes.axhspan(*ends, color="black", alpha=0.08, linewidth=0)
    for curve in reversed(plot.curves):
        colour, marker, line = style(entries.index(curve.name))
        places = [x for x, _ in curve.points]
        means = np.array([score.in_units(s.mean) for _, s in curve.points])
        spread = np.array([score.in_units(s.deviation or 0.0) for _, s in curve.points])
        axes.fill_between(places, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
        axes.plot(places, means, line, marker=marker, color=colour, markersize=5, linewidth=1.8, label=curve.name)
    places = [place for place, _ in axis.ticks]
    axes.set_xticks(places, [text for _, text in axis.ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(places) > 6 or width > 12:
        axes.tick_params(axis="x", rotation=45)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.3)
