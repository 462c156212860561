"""What networks cost beside what they score: of runs whose milliseconds are known."""

import csv
import json

import pytest
from helpers.measured import exported, measured, took
from helpers.sweeps import finished
from matplotlib.figure import Figure

from px_seg import InputError
from px_seg.curves import save
from px_seg.deploy.runs import Setting
from px_seg.report import payoff, report
from px_seg.report.notes import caveats
from px_seg.report.payoff import Point, front, points
from px_seg.report.reading import read_runs
from px_seg.report.runs import panels
from px_seg.report.tables import exported_table, payoff_table

COSTS = {
    ("dense", 0.0): [(100.0, 100.0, 1_000_000), (120.0, 120.0, 1_000_000), (110.0, 110.0, 1_000_000)],
    ("px", 0.8): [(100.0, 50.0, 400_000), (200.0, 120.0, 500_000), (50.0, 20.0, 300_000)],
    ("px", 0.98): [(100.0, 10.0, 50_000)] * 3,
    ("random", 0.98): [(100.0, 30.0, 50_000)] * 3,
}
"""Milliseconds dense and compacted, and parameters, by seed; random at 80% was not measured."""


@pytest.fixture
def costly(sweep):
    for (method, sparsity), seeds in COSTS.items():
        for seed, cost in enumerate(seeds):
            measured(sweep / method / f"{sparsity:g}" / f"seed{seed}", *cost)
    return sweep


def test_milliseconds_are_those_of_the_dense_network_by_the_share_measured_in_turns(costly) -> None:
    (panel,) = panels(read_runs(costly))
    dense, px, px98, random98 = points(panel)
    # The mean of all dense networks' milliseconds, 330 + 350 + 300 + 300 over 12 runs.
    whole = 1280 / 12
    one, half = pytest.approx(whole), pytest.approx(0.5 * whole)
    assert dense == Point("dense", 0.0, "torch", pytest.approx(0.71), 1.0, one, (one, one), 4.0, 2.0)
    # By hand: a half, three fifths and two fifths of the dense network's.
    assert px == Point("px", 0.8, "torch", pytest.approx(0.69), 0.5, half, (half, half), pytest.approx(1.6), 0.8)
    assert (px98.method, px98.sparsity, px98.share) == ("px", 0.98, pytest.approx(0.1))
    assert (random98.method, random98.share) == ("random", pytest.approx(0.3))


def test_the_front_is_what_nothing_beats_in_both() -> None:
    places = [(5.0, 0.9), (1.0, 0.5), (2.0, 0.4), (3.0, 0.8), (3.0, 0.7), (4.0, 0.8)]
    assert front(places, higher_is_better=True) == [(1.0, 0.5), (3.0, 0.8), (5.0, 0.9)]
    assert front(places, higher_is_better=False) == [(1.0, 0.5), (2.0, 0.4)]


def test_a_report_shows_what_was_measured(costly, monkeypatch) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(payoff, "save", lambda figure, folder, name: save(drawn.setdefault(name, figure), folder, name))
    report(costly, say=str)
    left, right = drawn["payoff"].axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("milliseconds of a forward pass", "megabytes of parameters")
    px = next(line for line in right.lines if line.get_label() == "px")
    assert px.get_xdata() == pytest.approx([1.6, 0.2])
    assert px.get_ydata() == pytest.approx([69.0, 61.0])
    # random at 98% is beaten by px there, and the others are on the front.
    assert right.lines[0].get_xdata() == pytest.approx([0.2, 1.6, 4.0])
    (panel,) = panels(read_runs(costly))
    rows = payoff_table(panel).rows
    assert rows[1] == ["px", "80.00%", "53.3 (53.3 to 53.3)", "0.50", "1.6", "0.8", "69.00"]
    assert [row[0] for row in rows] == ["dense", "px", "px", "random"]
    page, table = ((costly / "report" / name).read_text() for name in ("index.html", "table.md"))
    assert "mIoU against what the network costs" in page
    assert "| px | 80.00% | 53.3 (53.3 to 53.3) | 0.50 | 1.6 | 0.8 | 69.00 |" in table
    with (costly / "report" / "runs.csv").open(newline="") as file:
        rows = {(r["method"], r["sparsity"], r["seed"]): r for r in csv.DictReader(file)}
    assert rows["px", "0.8", "1"]["milliseconds"] == "120.0"
    assert rows["px", "0.8", "1"]["dense_milliseconds"] == "200.0"
    assert rows["random", "0.8", "1"]["milliseconds"] == ""


def test_exported_files_are_shown_beside_their_networks(costly, monkeypatch) -> None:
    for seed, milliseconds in enumerate((10.0, 24.0, 4.0)):
        exported(costly / "px" / "0.8" / f"seed{seed}", "int8", milliseconds, 400_000, 0.65 + seed / 100)
    # Of one seed alone.
    exported(costly / "px" / "0.98" / "seed1", "int8", 1.0, 100_000, 0.5)
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(payoff, "save", lambda figure, folder, name: save(drawn.setdefault(name, figure), folder, name))
    report(costly, say=str)
    (panel,) = panels(read_runs(costly))
    *in_torch, int8 = points(panel)
    assert [one.runtime for one in in_torch] == ["torch"] * 4
    # Shares by hand: 10 of 100, 24 of 200, 4 of 50.
    cost = pytest.approx(0.1 * 1280 / 12)
    assert int8 == Point("px", 0.8, "int8", pytest.approx(0.66), pytest.approx(0.1), cost, (cost, cost), 0.4, 0.8)
    assert [note for note in caveats([panel]) if "INT8" in note] == [
        "not all seeds were measured in OpenVINO in INT8, so it has no milliseconds here: dense, random at 80.00%, "
        "px at 98.00%, random at 98.00%"
    ]
    left, right = drawn["payoff"].axes
    (half,) = [line for line in left.lines if line.get_fillstyle() == "bottom"]
    assert (half.get_xdata(), half.get_ydata()) == ([cost], [pytest.approx(66.0)])
    assert right.get_xlabel() == "megabytes of parameters, or of the exported file"
    # It is as good as the network at 98 % is not, and cheaper than that at 80 %.
    assert 0.4 in [pytest.approx(x) for x in right.lines[0].get_xdata()]
    (legend,) = drawn["payoff"].legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["torch", "OpenVINO in INT8"]
    table = payoff_table(panel)
    assert table.head[2] == "in"
    assert table.rows[-1] == ["px", "80.00%", "OpenVINO in INT8", "10.7 (10.7 to 10.7)", "0.10", "0.4", "0.8", "66.00"]
    with (costly / "report" / "runs.csv").open(newline="") as file:
        rows = {(r["method"], r["sparsity"], r["seed"]): r for r in csv.DictReader(file)}
    assert [rows["px", "0.8", "1"][f"int8_{name}"] for name in ("miou", "milliseconds", "megabytes")] == [
        "0.66",
        "24.0",
        "0.4",
    ]
    assert rows["random", "0.8", "1"]["int8_miou"] == ""
    assert exported_table(panel).head == ["method", "sparsity", "torch", "OpenVINO in INT8"]
    assert exported_table(panel).rows == [
        ["dense", "0.00%", "71.00", ""],
        ["px", "80.00%", "69.00", "66.00"],
        ["random", "80.00%", "70.00", ""],
        ["px", "98.00%", "61.00", ""],
        ["random", "98.00%", "45.00", ""],
    ]
    # Without milliseconds there is the table alone.
    for file in costly.glob("*/*/*/latency.json"):
        file.unlink()
    report(costly, say=str)
    assert "| px | 80.00% | 69.00 | 66.00 |" in (costly / "report" / "table.md").read_text()


def test_tensorrt_takes_the_onnx_file_and_has_its_scores(tmp_path) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.8)
    measured(folder, 40.0, 20.0, 1000)
    exported(folder, "onnx", 10.0, 4000, 0.79)
    assert panels(read_runs(tmp_path))[0].runtimes == ["torch", "onnx"]
    took(folder, "tensorrt", 5.0, 4000)
    (panel,) = panels(read_runs(tmp_path))
    assert [(one.runtime, one.score, one.share) for one in points(panel)] == [
        ("torch", 0.8, 0.5),
        ("onnx", 0.79, 0.25),
        ("tensorrt", 0.79, 0.125),
    ]
    assert payoff_table(panel).rows[-1][2] == "TensorRT"
    # It was not evaluated itself.
    assert exported_table(panel).head == ["method", "sparsity", "torch", "ONNX Runtime"]
    report(tmp_path, say=str)
    with (tmp_path / "report" / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["onnx_miou"], row["tensorrt_milliseconds"]) == ("0.79", "5.0")
    assert "tensorrt_miou" not in row
    # Of a file that was not evaluated nothing is shown.
    (folder / "export" / "export.json").unlink()
    assert panels(read_runs(tmp_path))[0].runtimes == ["torch"]


def test_exported_files_score_on_further_lists_of_images(tmp_path) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.6)
    results = json.loads((folder / "results.json").read_text())
    results["also"] = {"val_seen": {"miou": 0.8, "pixel_accuracy": 0.9, "class_iou": {}}}
    (folder / "results.json").write_text(json.dumps(results))
    measured(folder, 100.0, 50.0, 1000)
    exported(folder, "onnx", 20.0, 4000, 0.59, val_seen=0.79)
    (panel,) = panels(read_runs(tmp_path))
    assert [point.score for point in points(panel)] == [0.6, 0.59]
    assert [point.score for point in points(panel.on("val_seen"))] == [0.8, 0.79]
    assert exported_table(panel.on("val_seen")).rows == [["px", "80.00%", "80.00", "79.00"]]
    other = finished(tmp_path, "px", 0.8, 1, 0.6)
    measured(other, 100.0, 50.0, 1000)
    # One of a version that knew half of the range alone.
    for one, images in ((folder, {"calibration": 300}), (other, {"calibration": 50, "weight_range": "whole"})):
        exported(one, "int8", 20.0, 4000, 0.5)
        file = one / "export" / "export.json"
        held = json.loads(file.read_text())
        held["files"]["int8"] |= images
        file.write_text(json.dumps(held))
    said = caveats(panels(read_runs(tmp_path)))
    assert "not all runs have the same number of INT8 calibration images: 300, 50" in said
    assert "not all runs have the same range of INT8 weights: half, whole" in said
    held["files"]["int8"]["scores"] = {"miou": float("nan")}
    file.write_text(json.dumps(held))
    with pytest.raises(InputError, match="has damaged scores: export it again"):
        read_runs(tmp_path)
    (folder / "export" / "export.json").write_text("{}")
    with pytest.raises(InputError, match=r"export\.json is damaged"):
        read_runs(tmp_path)


def test_figures_of_each_group_are_drawn_anew(costly) -> None:
    report(costly, say=str)
    assert (costly / "report" / "payoff.png").stat().st_size > 10_000
    for file in costly.glob("*/*/*/latency.json"):
        file.unlink()
    report(costly, say=str)
    assert not list((costly / "report").glob("payoff*"))
    measured(finished(costly, "px", 0.9, 0, 0.6, group="rounds=10", rounds=10), 100.0, 40.0, 10_000)
    report(costly, say=str)
    assert [file.name for file in (costly / "report").glob("payoff*.svg")] == ["payoff-rounds=10.svg"]


def test_what_was_measured_otherwise_or_not_at_all_is_left_out_and_named(costly) -> None:
    def noted() -> list[str]:
        return [note for note in caveats(panels(read_runs(costly))) if "milliseconds" in note]

    lacking = "not all seeds were measured, so it has no milliseconds here: "
    assert noted() == [f"{lacking}random at 80.00%"]
    before = points(panels(read_runs(costly))[0])
    measured(costly / "random" / "0.98" / "seed0", 3000.0, 900.0, 50_000, Setting(batch_size=8))
    assert noted() == [
        "milliseconds measured in another setting than most are left out: batch_size 8 and not 1",
        f"{lacking}random at 80.00%, random at 98.00%",
    ]
    # The others are where they were, but for the mean over dense networks, of which one is less: 1180 / 11.
    after = points(panels(read_runs(costly))[0])
    assert [(p.method, p.sparsity, p.share) for p in after] == [(p.method, p.sparsity, p.share) for p in before[:3]]
    assert after[0].milliseconds == pytest.approx(1180 / 11)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"setting": {}, "networks": {}}', '{"setting": {}, "networks": {"dense": {"milliseconds": 0}}}'],
)
def test_a_damaged_measurement_is_named(costly, text: str) -> None:
    file = costly / "px" / "0.8" / "seed0" / "latency.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"seed0/latency\.json is damaged: delete it, and measure the run again"):
        report(costly, say=str)
