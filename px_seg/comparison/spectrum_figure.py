"""The figure of spectra, as the paper's Fig. 5 draws them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from px_seg.comparison.row_tables import cells_of
from px_seg.comparison.spectrum_rows import SpectrumRow
from px_seg.curves import legend_size, save, style

LOWEST = 1e-16
"""Of the largest dense eigenvalue: below it nothing is drawn."""


def draw(folder: Path, rows: Sequence[SpectrumRow], title: str) -> None:
    """Sorted eigenvalues on logarithmic axes, a panel a sparsity, geometric means over seeds, as ntk.png and .svg."""
    dense = [row.spectrum for row in rows if not row.sparsity]
    cells = {key: [row.spectrum for row in same] for key, same in cells_of(rows).items() if key[1]}
    methods = list(dict.fromkeys(method for method, _ in cells))
    sparsities = sorted({sparsity for _, sparsity in cells})
    columns = min(3, len(sparsities))
    lines = -(-len(sparsities) // columns)
    width = 6.4 if columns == 1 else 4.4 * columns
    legend, more = legend_size(["dense", *methods], width)
    figure = Figure(figsize=(width, 4.0 * lines + 0.6 + more), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    floor = LOWEST * max(spectrum[0] for spectrum in dense or [row.spectrum for row in rows])
    for axes, sparsity in zip(grid, sparsities, strict=False):
        if dense:
            axes.loglog(*_points(dense, floor), color="black", linestyle=(0, (6, 3)), linewidth=1.4, label="dense")
        for number, method in reversed(list(enumerate(methods))):
            colour, marker, line = style(number)
            if found := cells.get((method, sparsity)):
                places, values = _points(found, floor)
                every = np.unique(np.geomspace(1, max(1, len(places)), 10).astype(int) - 1)
                axes.loglog(
                    *(places, values, line),
                    **{
                        "color": colour,
                        "marker": marker,
                        "markevery": every.tolist() if len(places) else None,
                        "markersize": 4,
                        "label": method,
                    },
                )
        axes.set_title(f"{100 * sparsity:g}% pruned", fontsize=10)
        axes.set(xlabel="place")
        axes.grid(alpha=0.3)
    for axes in grid[len(sparsities) :]:
        axes.set_axis_off()
    for axes in grid[::columns]:
        axes.set_ylabel("eigenvalue")
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [name for name in ("dense", *methods) if name in handles]
    lines_of = [handles[name] for name in order]
    figure.legend(lines_of, order, loc="outside lower center", ncols=min(legend, len(order)), fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, folder, "ntk")


def _points(spectra: Sequence[Sequence[float]], floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Places from 1 on, and geometric means over spectra of the eigenvalues there, as long as these are above it."""
    values = np.exp(np.log(np.maximum(np.array(spectra), floor)).mean(0))
    last = int((values > floor).sum())
    return np.arange(1, last + 1), values[:last]
