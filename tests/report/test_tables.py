"""Tables: what they say of runs whose scores are known."""

import csv
import json
import shutil

from helpers.sweeps import finished

from px_seg.metrics import Score
from px_seg.report import report
from px_seg.report.reading import read_runs
from px_seg.report.runs import panels
from px_seg.report.tables import costs, differences, made, markdown, predicted, preserved, scores, sparse_table
from px_seg.tasks import Segmentation


def plain(cell: str) -> str:
    return cell.replace("\N{MINUS SIGN}", "-")


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
    assert cost["px", "80.00%"] == [
        *("75.00%", "", "0", "0.0006 M (60.0%)", "2e-06 G (50.0%)", "0.0 MB", "0.0 MB", "1 s", "2 s")
    ]
    assert costs(panel).head[-2:] == ["prune", "train"]
    text = markdown(table)
    assert text.splitlines()[2:4] == ["|  | 80.00% | 98.00% |", "| --- | ---: | ---: |"]


def test_what_a_repair_took_is_among_the_costs(sweep) -> None:
    file = finished(sweep, "snip", 0.8, 0, 0.5) / "results.json"
    results = json.loads(file.read_text())
    results["seconds"]["repair"] = 7.0
    file.write_text(json.dumps(results))
    (panel,) = panels(read_runs(sweep))
    table = costs(panel)
    assert table.head[-3:] == ["prune", "repair", "train"]
    assert {row[0]: row[-2] for row in table.rows if row[1] == "80.00%"} == {
        "px": "0 s",
        "random": "0 s",
        "snip": "7 s",
    }


def test_ranks_before_and_after_training_are_correlated(tmp_path) -> None:
    """Of four methods CKA has one pair swapped, 1 - 6 * 2 / (4 * 15) = 0.8; errors after the repair are in order."""
    for place, (method, cka) in enumerate({"px": 0.4, "snip": 0.3, "random": 0.1, "grasp": 0.2}.items()):
        run = finished(tmp_path, method, 0.8, 0, 0.7 - place / 10)
        results = json.loads((run / "results.json").read_text())
        before = {"cka": {"encoder.1": 0.5, "encoder.2": cka}, "agreement": 0.5, "error": 9.0, "images": 4}
        results["preservation"] = before
        results["preservation_repaired"] = before | {"error": place / 10}
        (run / "results.json").write_text(json.dumps(results))
    table = predicted(panels(read_runs(tmp_path))[0])
    assert table.rows == [["80.00%", "4", "+0.80", "", "+1.00"]]
    shutil.rmtree(run)
    assert predicted(panels(read_runs(tmp_path))[0]) is None


def test_px_and_magnitude_are_what_others_are_compared_with(sweep) -> None:
    for seed in range(3):
        finished(sweep, "magnitude", 0.8, seed, 0.70 + seed / 100)
        finished(sweep, "magnitude+ranking=erk", 0.8, seed, 0.75)
    table = differences(panels(read_runs(sweep))[0])
    others = ["px minus it", "magnitude minus it", "magnitude+ranking=erk minus it"]
    assert table.head == ["method", "sparsity", "minus dense", *others]
    rows = {(row[0], row[1]): [plain(cell) for cell in row[3:]] for row in table.rows}
    # The last column: 75 minus one point less, the same and one more, 4.303 * 1 / sqrt(3) to both sides.
    assert rows["px", "80.00%"] == ["", "+2.00 [+2.00, +2.00]", "+6.00 [+3.52, +8.48]"]
    assert rows["magnitude", "80.00%"] == ["-2.00 [-2.00, -2.00]", "", "+4.00 [+1.52, +6.48]"]
    assert rows["random", "80.00%"] == ["-1.00 [-1.00, -1.00]", "+1.00 [+1.00, +1.00]", "+5.00 [+2.52, +7.48]"]
    assert rows["magnitude+ranking=erk", "80.00%"][2] == ""
    assert rows["random", "98.00%"][1] == "no common seed"


def test_one_seed_has_no_spread_and_a_tie_two_winners(tmp_path) -> None:
    for method in ("px", "snip"):
        finished(tmp_path, method, 0.5, 0, 0.5)
    (panel,) = panels(read_runs(tmp_path))
    assert scores(panel).rows == [["px", "**50.00**"], ["snip", "**50.00**"]]
    assert "one seed" in scores(panel).caption
    assert differences(panel).rows == [["px", "50.00%", ""], ["snip", "50.00%", "+0.00"]]


def test_a_score_of_which_less_is_better_is_compared_so(sweep, monkeypatch) -> None:
    """An error in metres: the lowest mean is bold, numbers are as they are stored, and captions say the unit."""
    error = Score("miou", "error", higher_is_better=False, unit="m", scale=1.0, digits=3, limits=None)
    monkeypatch.setattr(Segmentation, "scores", (error,))
    (panel,) = panels(read_runs(sweep))
    table = scores(panel)
    assert table.caption == (
        "error in m, mean ± standard deviation over 3 seeds, by sparsity of the backbone; "
        "bold: the lowest mean of the pruned networks"
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


def test_what_pruning_left_of_the_network_is_in_the_csv_and_a_table_of_its_own(sweep) -> None:
    for method, shares in {"px": (0.5, 0.6, 0.7), "random": (0.1, 0.1, 0.4)}.items():
        for seed, share in enumerate(shares):
            file = sweep / method / "0.98" / f"seed{seed}" / "results.json"
            found = {"cka": {"encoder.1": 0.9, "encoder.2": share}, "agreement": share / 2, "error": 1.5, "images": 64}
            file.write_text(json.dumps(json.loads(file.read_text()) | {"preservation": found}))
    (panel,) = panels(read_runs(sweep))
    table = preserved(panel)
    assert table is not None
    assert table.rows == [
        ["px", "98.00%", "0.600", "0.300", "1.500"],
        ["random", "98.00%", "0.200", "0.100", "1.500"],
    ]
    folder = report(sweep)
    with (folder / "runs.csv").open() as file:
        rows = {(row["method"], row["sparsity"], row["seed"]): row for row in csv.DictReader(file)}
    assert rows["px", "0.98", "2"]["preserved_cka"] == "0.7"
    assert rows["px", "0.98", "2"]["preserved_agreement"] == "0.35"
    assert rows["px", "0.8", "2"]["preserved_cka"] == ""
    assert "linear CKA of the last features" in (folder / "table.md").read_text()


def test_runs_from_random_weights_have_no_such_table(sweep) -> None:
    (panel,) = panels(read_runs(sweep))
    assert preserved(panel) is None
    assert len(made(panel)) == 3


def test_what_runs_score_on_further_lists_has_tables_of_its_own(tmp_path) -> None:
    for method, sparsity, own in (("dense", 0.0, 0.8), ("px", 0.9, 0.6), ("random", 0.9, 0.7)):
        for seed in (0, 1):
            finished(tmp_path, method, sparsity, seed, 0.5)
            file = next(tmp_path.glob(f"{method}/*/seed{seed}/results.json"))
            results = json.loads(file.read_text())
            results["also"] = {"seen": {"miou": own + 0.01 * seed, "pixel_accuracy": 0.9, "class_iou": {}}}
            file.write_text(json.dumps(results))
    (panel,) = panels(read_runs(tmp_path))
    assert panel.also == ["seen"]
    tables = [table for table in made(panel) if table.caption.startswith("On seen: ")]
    assert len(tables) == 2
    assert tables[0].rows == [
        ["dense", "80.50 ± 0.71"],
        ["px", "60.50 ± 0.71"],
        ["random", "**70.50 ± 0.71**"],
    ]
    # The main score stands beside it, as it was.
    assert scores(panel).rows[1][1] != tables[0].rows[1][1]
    with (report(tmp_path) / "runs.csv").open() as file:
        assert {row["miou_seen"] for row in csv.DictReader(file)} >= {"0.6", "0.61"}


def test_layers_for_sparse_units_are_named_with_the_command_that_tries_them(tmp_path) -> None:
    finished(tmp_path, "dense", 0.0, 0, 0.7)
    runs = {seed: finished(tmp_path, "px", 0.5, seed, 0.6) for seed in (1, 2)}
    (panel,) = panels(read_runs(tmp_path))
    assert sparse_table(panel) is None
    wide = {f"encoder.layer4.{block}.conv2": {"inputs": 512, "outputs": 512, "share": 0.25} for block in (0, 1)}
    layers = {1: wide | {"encoder.layer1.0.conv1": {"inputs": 64, "outputs": 64, "share": 0.1}}, 2: wide}
    for seed, run in runs.items():
        results = json.loads((run / "results.json").read_text())
        (run / "results.json").write_text(json.dumps(results | {"sparse_layers": layers[seed]}))
    table = sparse_table(panels(read_runs(tmp_path))[0])
    assert table.rows == [["px", "50.00%", "3", "60%", "2", "50%", "encoder.layer4.{0-1}.conv2"]]
    assert table in made(panels(read_runs(tmp_path))[0])
    command = (
        f"trtexec --onnx={runs[1]}/export.whole/model.onnx --shapes=image:1x3x32x32 --fp16 --sparsity=enable --verbose"
    )
    assert f"px_seg export {runs[1]} --no_compact; {command}" in table.caption
