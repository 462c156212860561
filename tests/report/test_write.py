"""A report as a whole: its files, and what it is refused for."""

import csv

import pytest
from helpers.runs import script
from helpers.sweeps import finished

from px_seg import InputError
from px_seg.report import report


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


def test_dense_runs_alone_have_their_table(tmp_path) -> None:
    for seed in range(2):
        finished(tmp_path, "dense", 0.0, seed, 0.5 + seed / 10)
    report(tmp_path, say=str)
    assert "| dense | 55.00 ± 7.07 |" in (tmp_path / "report" / "table.md").read_text()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "55.00 ± 7.07" in page
    assert "Predictions" not in page
    assert not (tmp_path / "report" / "curves.png").exists()


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


@pytest.mark.slow
def test_the_script_says_so_too(tmp_path) -> None:
    done = script(tmp_path / "nothing", name="report")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
