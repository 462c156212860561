"""What the networks of a sweep cost where they run, beside what they score."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from px_seg.curves import legend_size, save, style
from px_seg.report.runs import Panel
from px_seg.sweep.methods import DENSE

WIDTH = 9.6
"""Inches of a figure."""

FRONT = "Pareto front"
"""What the legend calls the line that joins what nothing else beats in both."""


class Point(NamedTuple):
    """The networks of one method and sparsity: means over seeds."""

    method: str
    sparsity: float
    score: float
    share: float
    """Of the dense network's milliseconds, with which each was measured in turns."""
    milliseconds: float
    """That share of the mean over all dense networks' milliseconds, so that a machine's drift does not order them."""
    quartiles: tuple[float, float]
    """Of the milliseconds of each measurement, in the same way."""
    megabytes: float
    gflops: float


def points(panel: Panel) -> list[Point]:
    """Where the networks of all seeds were measured in one setting, that of most runs; the dense network first."""
    setting = panel.measured_in
    dense = [run.cost.dense for run in (*panel.dense, *panel.runs) if run.cost and run.cost.setting == setting]
    found = []
    for sparsity, method in panel.cells:
        several = panel.of(method, sparsity)
        costs = [run.cost for run in several if run.cost and run.cost.setting == setting]
        if len(costs) == len(several):
            share, megabytes = mean(cost.share for cost in costs), mean(cost.megabytes for cost in costs)
            first, third = (mean(dense) * mean(cost.quartiles[n] / cost.dense for cost in costs) for n in (0, 1))
            gflops, score = mean(cost.flops for cost in costs) / 1e9, mean(run.score for run in several)
            found.append(Point(method, sparsity, score, share, share * mean(dense), (first, third), megabytes, gflops))
    return found


def front(places: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """Of costs and scores those than which no other is both cheaper and better, by cost."""
    sign = 1 if higher_is_better else -1
    found: list[tuple[float, float]] = []
    for cost, score in sorted(places, key=lambda place: (place[0], -sign * place[1])):
        if not found or sign * score > sign * found[-1][1]:
            found.append((cost, score))
    return found


def draw_payoff(folder: Path, name: str, panel: Panel) -> bool:
    """Score against milliseconds and against megabytes, as NAME.png and NAME.svg, with the front of the best.

    False, and nothing drawn, where no network that is pruned was measured.
    """
    found = points(panel)
    methods = [method for method in panel.methods if any(point.method == method for point in found)]
    if not methods:
        return False
    entries = [*[DENSE] * bool(panel.dense), *methods, FRONT]
    columns, more = legend_size(entries, WIDTH)
    figure = Figure(figsize=(WIDTH, 4.3 + more), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, panel, found, [point.milliseconds for point in found])
    for point in found:
        height = panel.score.in_units(point.score)
        left.plot(point.quartiles, [height, height], color="0.4", linewidth=0.8, zorder=1)
    left.set(xlabel="milliseconds of a forward pass", ylabel=panel.score.title)
    _draw(right, panel, found, [point.megabytes for point in found])
    right.set(xlabel="megabytes of parameters")
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    shown = [entry for entry in entries if entry in handles]
    lines = [handles[entry] for entry in shown]
    figure.legend(lines, shown, loc="outside lower center", ncols=min(columns, len(shown)), fontsize=9)
    figure.suptitle("What the compacted networks cost; the numbers are percentages pruned", fontsize=11)
    save(figure, folder, name)
    return True


def _draw(axes: Axes, panel: Panel, found: Sequence[Point], costs: Sequence[float]) -> None:
    scores = [panel.score.in_units(point.score) for point in found]
    best = front(list(zip(costs, scores, strict=True)), panel.score.higher_is_better)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color="0.85", linewidth=8, solid_capstyle="round", zorder=0, label=FRONT)
    for number, method in enumerate(panel.methods):
        colour, marker, line = style(number)
        own = [place for place, point in enumerate(found) if point.method == method]
        places, heights = [costs[place] for place in own], [scores[place] for place in own]
        if own:
            axes.plot(places, heights, line, marker=marker, color=colour, markersize=5, label=method)
        for place in own:
            text, at = f"{100 * found[place].sparsity:.3g}", (costs[place], scores[place])
            note = axes.annotate(text, at, (4, 3), textcoords="offset points", fontsize=7, color=colour, zorder=3)
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])
    for cost, score, point in zip(costs, scores, found, strict=True):
        if point.method == DENSE:
            axes.plot(cost, score, "*", color="black", markersize=13, zorder=1, label=DENSE)
    axes.set_xlim(0, 1.1 * max(costs))
    axes.grid(alpha=0.3)
