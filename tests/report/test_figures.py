"""What the curves show."""

import math
from itertools import pairwise

import pytest
from helpers.sweeps import finished
from matplotlib.figure import Figure

from px_seg.curves import legend_size, place, style
from px_seg.report.figures import _plots
from px_seg.report.reading import read_runs
from px_seg.report.runs import panels
from px_seg.sweep import PAPER


def test_the_papers_sparsities_are_equally_far_apart() -> None:
    places = [place(sparsity) for sparsity in PAPER]
    steps = [after - before for before, after in pairwise(places)]
    assert steps == pytest.approx([math.log(1 / 0.64)] * 8, rel=0.01)


def test_what_is_drawn_depends_on_what_is_varied(tmp_path) -> None:
    for batches in (1, 4, 16):
        for sparsity in (0.8, 0.9):
            finished(tmp_path / "two", "px", sparsity, 0, 0.5, group=f"pruning.batches={batches}")
        finished(tmp_path / "one", "px", 0.8, 0, 0.5, group=f"pruning.batches={batches}")
    for name in ("one", "two"):
        finished(tmp_path / name, "dense", 0.0, 0, 0.6)
    ((plot,), axis) = _plots(panels(read_runs(tmp_path / "two")))
    assert [curve.name for curve in plot.curves] == [f"pruning.batches={n}" for n in (1, 4, 16)]
    assert axis.name == "sparsity of the backbone (%)"
    ((plot,), axis) = _plots(panels(read_runs(tmp_path / "one")))
    assert [curve.name for curve in plot.curves] == ["px"]
    assert axis.ticks == [(0.0, "1"), (2.0, "4"), (4.0, "16")]
    assert plot.dense.mean == 0.6
    finished(tmp_path / "one", "px", 0.8, 0, 0.5, group="rounds=10")
    ((plot,), axis) = _plots(panels(read_runs(tmp_path / "one")))
    assert (len(plot.curves), axis.name) == (4, "sparsity of the backbone (%)")
    finished(tmp_path / "one", "snip", 0.9, 0, 0.5, group="pruning.batches=4")
    plots, _ = _plots(panels(read_runs(tmp_path / "one")))
    assert len(plots) == 4


def test_curves_differ_in_marker_or_line_as_well_as_in_colour() -> None:
    styles = [style(number) for number in range(24)]
    assert len({(colour, marker) for colour, marker, _ in styles}) == 24
    for first, second in pairwise(styles):
        assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("width", [6.4, 13.8])
@pytest.mark.parametrize(
    "name", ["px", "magnitude+ranking=erk", "ntk_trace+ranking=erk+recalibrate=reconstruct+rounds=10"]
)
def test_a_legend_is_no_wider_than_its_figure_and_uses_it(name: str, width: float) -> None:
    names = [name] * 20
    extents = []
    for more in (0, 1):
        figure = Figure(figsize=(width, 4))
        lines = [figure.subplots().plot([0, 1], "-o")[0]] * len(names)
        columns = legend_size(names, width)[0] + more
        legend = figure.legend(lines, names, ncols=columns, fontsize=9)
        figure.draw_without_rendering()
        extents.append(legend.get_window_extent().width / figure.dpi)
    assert extents[0] <= width
    assert extents[1] > 0.7 * width
