"""Reports: what they say of runs whose scores are known."""

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.runs import parsed, script
from helpers.sweeps import finished

from px_seg import InputError
from px_seg.metrics import Score
from px_seg.report import report
from px_seg.report.figures import _place, _plots, style
from px_seg.report.runs import caveats, panels, read_runs
from px_seg.report.statistics import paired_difference, summary
from px_seg.report.tables import costs, differences, markdown, scores
from px_seg.sweep import PAPER
from px_seg.tasks import Segmentation

SCORES = {
    ("dense", 0.0): (0.70, 0.72, 0.71),
    ("px", 0.8): (0.68, 0.69, 0.70),
    ("px", 0.98): (0.60, 0.62, 0.61),
    ("random", 0.8): (0.69, 0.70, 0.71),
    ("random", 0.98): (0.40, 0.45, 0.50),
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for (method, sparsity), values in SCORES.items():
        for seed, score in enumerate(values):
            finished(tmp_path / "out", method, sparsity, seed, score)
    return tmp_path / "out"


def plain(cell: str) -> str:
    return cell.replace("\N{MINUS SIGN}", "-")


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    first, second = {0: 0.3, 1: 0.5, 2: 0.45, 7: 0.1}, {2: 0.4, 1: 0.42, 0: 0.29, 9: 0.2}
    found = paired_difference(first, second)
    # Differences 0.01, 0.08, 0.05 of the seeds 0, 1, 2: mean 0.14 / 3, and t(2) is 4.302653 at 97.5%.
    mean = 0.14 / 3
    deviation = math.sqrt(((0.01 - mean) ** 2 + (0.08 - mean) ** 2 + (0.05 - mean) ** 2) / 2)
    margin = 4.302652729911275 * deviation / math.sqrt(3)
    assert found.count == 3
    assert found.mean == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - margin, mean + margin))
    assert paired_difference({0: 0.3}, {0: 0.2}).interval is None
    assert paired_difference({0: 0.3}, {1: 0.2}) is None


def test_an_interval_without_any_variation_is_a_point() -> None:
    assert paired_difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}) == (0.25, (0.25, 0.25), 2)


def test_the_deviation_divides_by_one_seed_less() -> None:
    assert summary([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)), 3)
    assert summary([1.0]) == (1.0, None, 1)


def test_the_tables_say_what_the_runs_came_to(sweep) -> None:
    (panel,) = panels(read_runs(sweep))
    table = scores(panel)
    assert table.head == ["", "80.00%", "98.00%"]
    assert table.rows == [
        ["dense", "71.00 ± 1.00", "71.00 ± 1.00"],
        ["px", "69.00 ± 1.00", "**61.00 ± 1.00**"],
        ["random", "**70.00 ± 1.00**", "45.00 ± 5.00"],
    ]
    assert "over 3 seeds" in table.caption
    rows = {(row[0], row[1]): [plain(cell) for cell in row[2:]] for row in differences(panel).rows}
    # px minus dense at 80%: -2, -3, -1 points, so -2 +- 4.303 * 1 / sqrt(3).
    assert rows["px", "80.00%"] == ["-2.00 [-4.48, +0.48]", ""]
    assert rows["random", "80.00%"][1] == "-1.00 [-1.00, -1.00]"
    assert rows["random", "98.00%"][1].startswith("+16.00 [")
    cost = {(row[0], row[1]): row[2:] for row in costs(panel).rows}
    assert cost["px", "80.00%"] == ["0.0006 M (60.0%)", "2e-06 G (50.0%)", "0.0 MB", "0.0 MB", "1 s", "2 s"]
    text = markdown(table)
    assert text.splitlines()[2:4] == ["|  | 80.00% | 98.00% |", "| --- | ---: | ---: |"]


def test_one_seed_has_no_spread_and_a_tie_two_winners(tmp_path) -> None:
    for method in ("px", "snip"):
        finished(tmp_path, method, 0.5, 0, 0.5)
    (panel,) = panels(read_runs(tmp_path))
    assert scores(panel).rows == [["px", "**50.00**"], ["snip", "**50.00**"]]
    assert "one seed" in scores(panel).caption
    assert differences(panel).rows == [["px", "50.00%", ""], ["snip", "50.00%", "+0.00"]]


def test_the_csv_has_a_row_a_run(sweep) -> None:
    finished(sweep, "px", 0.8, 0, 0.3, group="rounds=10", rounds=10)
    report(sweep, say=str)
    with (sweep / "report" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    found = {
        (row["rounds"], row["method"], float(row["sparsity"]), int(row["seed"])): float(row["miou"]) for row in rows
    }
    assert found["", "random", 0.98, 2] == 0.5
    assert found["10", "px", 0.8, 0] == 0.3
    assert {row["parameters_total"] for row in rows} == {"1000"}
    assert {row["prune_seconds"] for row in rows} == {"1.0"}


def test_dense_runs_are_held_to_all_that_agree_with_them_in_what_they_felt(tmp_path) -> None:
    for epochs in (1, 2):
        finished(tmp_path, "dense", 0.0, 0, epochs / 10, group=f"epochs={epochs}")
        for rounds in (10, 2):
            finished(tmp_path, "px", 0.5, 0, 0.5, group=f"epochs={epochs}/rounds={rounds}")
    found = panels(read_runs(tmp_path))
    # By the value of the number, not by its first digit.
    assert [panel.title for panel in found] == [
        *("epochs=1, rounds=2", "epochs=1, rounds=10", "epochs=2, rounds=2", "epochs=2, rounds=10")
    ]
    assert [panel.dense[0].score for panel in found] == [0.1, 0.1, 0.2, 0.2]


def test_the_dense_reference_is_the_one_that_felt_most_and_there_is_one(tmp_path) -> None:
    finished(tmp_path, "dense", 0.0, 0, 0.1)
    finished(tmp_path, "dense", 0.0, 0, 0.2, group="epochs=2")
    finished(tmp_path, "px", 0.5, 0, 0.5, group="epochs=2")
    (panel,) = panels(read_runs(tmp_path))
    assert [run.score for run in panel.dense] == [0.2]
    finished(tmp_path, "dense", 0.0, 0, 0.3, group="batch_size=4")
    finished(tmp_path, "px", 0.5, 0, 0.5, group="batch_size=4/epochs=2")
    with pytest.raises(InputError, match="has two dense references"):
        panels(read_runs(tmp_path))


def test_dense_runs_alone_have_their_table(tmp_path) -> None:
    for seed in range(2):
        finished(tmp_path, "dense", 0.0, seed, 0.5 + seed / 10)
    report(tmp_path, say=str)
    assert "| dense | 55.00 ± 7.07 |" in (tmp_path / "report" / "table.md").read_text()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "55.00 ± 7.07" in page
    assert "Predictions" not in page
    assert not (tmp_path / "report" / "curves.png").exists()


def test_what_differs_where_only_the_method_should_is_said(sweep) -> None:
    assert caveats(panels(read_runs(sweep))) == []
    finished(sweep, "snip", 0.8, 0, 0.5, epochs=99)
    finished(sweep, "snip", 0.8, 1, 0.5)
    notes = caveats(panels(read_runs(sweep)))
    assert [note for note in notes if "epochs" in note] == ["not all runs have the same epochs: 10, 99"]
    assert "snip at 80.00% lacks seed 2" in notes
    assert "snip at 98.00% lacks seed 0, 1, 2" in notes
    assert len(notes) == 3
    finished(sweep, "grasp", 0.8, 0, 0.5, data=replace(parsed().data, root="elsewhere"))
    assert "not all runs have the same data.root: data, elsewhere" in caveats(panels(read_runs(sweep)))


def test_the_papers_sparsities_are_equally_far_apart() -> None:
    places = [_place(sparsity) for sparsity in PAPER]
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


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "img":
            assert attrs["alt"]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_beside_it(sweep) -> None:
    report(sweep, say=str)
    raw = (sweep / "report" / "index.html").read_text()
    page = Page(raw)
    assert page.open == []
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", raw))
    text = " ".join(page.text)
    for word in ("61.00 ± 1.00", "optimizer.backbone_lr", "random", "a note with <b>", "98.00%", "encoder.layer1"):
        assert word in text, word
    # Two sparsities, two images each, of image, truth, dense, px and random.
    assert sum(source.startswith("data:image/") for source in page.sources) == 2 * 2 * 5 + 2
    for name in ("curves", "densities"):
        assert (sweep / "report" / f"{name}.png").stat().st_size > 10_000
        xml.etree.ElementTree.parse(sweep / "report" / f"{name}.svg")


def test_a_report_is_the_same_when_it_is_made_again(sweep) -> None:
    def made() -> dict[str, bytes]:
        report(sweep, say=str)
        return {path.name: path.read_bytes() for path in (sweep / "report").iterdir()}

    first = made()
    second = made()
    assert {name for name in first if first[name] != second[name]} == set()


def test_what_cannot_be_reported_on_is_said_in_a_line(tmp_path, sweep) -> None:
    for folder, message in ((tmp_path / "nothing", "there is no folder"), (sweep / "px", "is not part of a sweep")):
        with pytest.raises(InputError, match=message):
            report(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no finished run in"):
        report(tmp_path / "empty")
    broken = sweep / "px" / "0.8" / "seed1" / "results.json"
    text = broken.read_text()
    broken.write_text("{")
    with pytest.raises(InputError, match=r"px/0\.8/seed1 is damaged: delete the folder"):
        report(sweep)
    broken.write_text(text.replace('"flops"', '"flop"'))
    with pytest.raises(InputError, match="from an earlier version, without flops"):
        report(sweep)
    broken.write_text(text.replace('"seg"', '"cls"').replace('"miou"', '"accuracy"'))
    with pytest.raises(InputError, match="holds runs of cls and seg"):
        report(sweep)
    done = script(tmp_path / "nothing", name="report")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "changes",
    [
        *({"miou": math.nan}, {"miou": "abc"}, {"miou": None}, {"seed": None}, {"sparsity": "x"}, {"flops": 3}),
        *({"data": None}, {"seconds": {}}, {"encoder": 3}, {"device": None}, {"task": "zzz"}),
    ],
)
def test_results_that_say_nothing_are_damaged(tmp_path, changes) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.5)
    results = json.loads((folder / "results.json").read_text())
    for text in (json.dumps(results | changes), "null", "[]"):
        (folder / "results.json").write_text(text)
        with pytest.raises(InputError, match="is damaged: delete the folder"):
            read_runs(tmp_path)


def test_a_copied_run_does_not_count_twice(tmp_path) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.5)
    shutil.copytree(folder, folder.with_name("seed0.bak"))
    with pytest.raises(InputError, match="are the same run: move one of them"):
        read_runs(tmp_path)


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_tables(tmp_path) -> None:
    for method in ("px", "snip"):
        folder = finished(tmp_path, method, 0.8, 0, 0.5)
    (folder / "samples.npz").unlink()
    (folder / "masks.safetensors").write_bytes(b"nothing")
    report(tmp_path, say=str)
    text = " ".join(Page((tmp_path / "report" / "index.html").read_text()).text)
    assert "snip" in text
    assert "weights kept in every layer are not drawn" in text
    assert "Not shown: snip (" in text
    (tmp_path / "report" / "table.md").unlink()
    (tmp_path / "report" / "table.md").mkdir()
    with pytest.raises(InputError, match=r"table\.md cannot be written: Is a directory"):
        report(tmp_path, say=str)


def test_a_score_of_which_less_is_better_is_compared_so(sweep, monkeypatch) -> None:
    """An error in metres: the lowest mean is bold, numbers are as they are stored, and captions say the unit."""
    error = Score("miou", "error", higher_is_better=False, unit="m", scale=1.0, digits=3, limits=None)
    monkeypatch.setattr(Segmentation, "scores", (error,))
    (panel,) = panels(read_runs(sweep))
    table = scores(panel)
    assert table.caption == (
        "error in m, mean ± standard deviation over 3 seeds, by sparsity of the backbone; "
        "bold: the lowest mean of those pruned"
    )
    assert table.rows == [
        ["dense", "0.710 ± 0.010", "0.710 ± 0.010"],
        ["px", "**0.690 ± 0.010**", "0.610 ± 0.010"],
        ["random", "0.700 ± 0.010", "**0.450 ± 0.050**"],
    ]
    assert differences(panel).caption.startswith("Differences in m, ")
    assert plain(differences(panel).rows[0][2]) == "-0.020 [-0.045, +0.005]"
    page = (report(sweep) / "index.html").read_text()
    assert '<th scope="col">error (m)</th>' in page
    assert "error (m)" in (sweep / "report" / "curves.svg").read_text()
    assert "mIoU" not in page
