"""The figure of a comparison."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from px_seg.comparison.preservation_rows import PreservationRow
from px_seg.curves import legend_size, place, save, style

WIDTH = 12.0
"""Inches."""


def draw(folder: Path, rows: Sequence[PreservationRow], title: str) -> None:
    """CKA of the last stage, agreement and error against sparsity, means over seeds, as preservation.png and .svg."""
    methods = list(dict.fromkeys(row.method for row in rows))
    sparsities = sorted({row.sparsity for row in rows})
    last = list(rows[0].cka)[-1]
    panels = (
        (f"CKA of {last}", lambda row: row.cka[last]),
        ("equal predictions", lambda row: row.agreement),
        ("relative error of the outputs", lambda row: row.error),
    )
    columns, more = legend_size(methods, WIDTH)
    figure = Figure(figsize=(WIDTH, 4.4 + more), layout="constrained")
    for axes, (label, value) in zip(figure.subplots(1, 3), panels, strict=True):
        for number, method in reversed(list(enumerate(methods))):
            colour, marker, line = style(number)
            found = [[value(row) for row in rows if (row.method, row.sparsity) == (method, s)] for s in sparsities]
            points = [(place(s), float(np.mean(v))) for s, v in zip(sparsities, found, strict=True) if v]
            axes.plot(*zip(*points, strict=True), line, marker=marker, color=colour, markersize=5, label=method)
        ticks = [f"{100 * sparsity:g}" for sparsity in sparsities]
        axes.set_xticks([place(sparsity) for sparsity in sparsities], ticks, fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="sparsity (%)", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[1].set_ylim(bottom=0)
    # One method may be off by a factor of hundreds.
    figure.axes[2].set_yscale("log")
    figure.axes[2].yaxis.set_major_formatter(FuncFormatter(_short))
    figure.axes[2].yaxis.set_minor_formatter(FuncFormatter(_short))
    figure.axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=columns, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, "preservation")


def _short(value: float, _: int | None) -> str:
    """The number of a tick that begins with 1, 2, 3 or 5."""
    return f"{value:g}" if f"{value:e}"[0] in "1235" else ""
