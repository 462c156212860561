"""What the networks of a sweep cost where they run, beside what they score."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Literal, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patheffects import withStroke

from px_seg.curves import legend_size, save, style
from px_seg.report.runs import RUNTIMES, TORCH, Panel
from px_seg.sweep.methods import DENSE

WIDTH = 9.6
"""Inches of a figure."""

FILLED: dict[str, Literal["full", "none", "left", "right", "bottom"]] = {
    TORCH: "full",
    "onnx": "none",
    "tensorrt": "right",
    "openvino": "left",
    "int8": "bottom",
}
"""What of a marker is coloured, by the runtime."""

FRONT = "Pareto front"
"""What the legend calls the line that joins what nothing else beats in both."""


class Point(NamedTuple):
    """The networks of one method and sparsity in one runtime: means over seeds."""

    method: str
    sparsity: float
    runtime: str
    """One of RUNTIMES."""
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
    """Where the networks of all seeds were measured in one setting, that of most runs; torch and dense come first.

    Exported files count where they were evaluated as well.
    """
    dense = [
        run.cost.dense for run in (*panel.dense, *panel.runs) if run.cost and run.cost.setting == panel.measured_in
    ]
    found = []
    for runtime, (sparsity, method) in product(panel.runtimes, panel.cells):
        several = panel.of(method, sparsity)
        costs = [cost for run in several if panel.is_measured(run, runtime) and (cost := run.cost_in(runtime))]
        scores = [score for run in several if (score := run.score_in(runtime)) is not None]
        if len(costs) == len(several):
            share, megabytes = mean(cost.share for cost in costs), mean(cost.megabytes for cost in costs)
            first, third = (mean(dense) * mean(cost.quartiles[n] / cost.dense for cost in costs) for n in (0, 1))
            milliseconds, gflops = share * mean(dense), mean(cost.flops for cost in costs) / 1e9
            of = (method, sparsity, runtime, mean(scores), share)
            found.append(Point(*of, milliseconds, (first, third), megabytes, gflops))
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
    others = [runtime for runtime in panel.runtimes[1:] if any(point.runtime == runtime for point in found)]
    names = [RUNTIMES[runtime] for runtime in [TORCH, *others]] if others else []
    entries = [*[DENSE] * bool(panel.dense), *methods, FRONT, *names]
    columns, more = legend_size(entries, WIDTH)
    figure = Figure(figsize=(WIDTH, 4.3 + more), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, panel, found, [point.milliseconds for point in found])
    for point in found:
        height = panel.score.in_units(point.score)
        left.plot(point.quartiles, [height, height], color="0.4", linewidth=0.8, zorder=1)
    left.set(xlabel="milliseconds of a forward pass", ylabel=panel.score.title)
    _draw(right, panel, found, [point.megabytes for point in found])
    right.set(xlabel="megabytes of parameters, or of the exported file" if others else "megabytes of parameters")
    handles: dict[str, Artist] = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    for runtime, runtime_name in zip([TORCH, *others], names, strict=False):
        marker = MarkerStyle("o", FILLED[runtime])
        handles[runtime_name] = Line2D(
            [], [], linestyle="", marker=marker, markersize=7, color="0.35", markerfacecoloralt="white"
        )
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
    for (number, method), runtime in product(enumerate(panel.methods), panel.runtimes):
        colour, marker, line = style(number)
        own = [place for place, point in enumerate(found) if (point.method, point.runtime) == (method, runtime)]
        places, heights = [costs[place] for place in own], [scores[place] for place in own]
        if own:
            axes.plot(
                places,
                heights,
                line,
                marker=MarkerStyle(marker, FILLED[runtime]),
                markerfacecoloralt="white",
                color=colour,
                markersize=5,
                linewidth=1.5 if runtime == TORCH else 0.7,
                label=method if runtime == TORCH else None,
            )
        for place in own:
            text, at = f"{100 * found[place].sparsity:.3g}", (costs[place], scores[place])
            note = axes.annotate(text, at, (4, 3), textcoords="offset points", fontsize=7, color=colour, zorder=3)
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])
    for cost, score, point in zip(costs, scores, found, strict=True):
        if point.method == DENSE:
            star, label = MarkerStyle("*", FILLED[point.runtime]), DENSE if point.runtime == TORCH else None
            axes.plot(
                cost,
                score,
                marker=star,
                markerfacecoloralt="white",
                color="black",
                markersize=13,
                zorder=1,
                label=label,
            )
    axes.set_xlim(0, 1.1 * max(costs))
    axes.grid(alpha=0.3)
