"""Which runs are compared with which, and runs that say nothing."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from helpers.runs import parsed
from helpers.sweeps import finished

from px_seg import InputError
from px_seg.report.notes import caveats
from px_seg.report.reading import read_runs
from px_seg.report.runs import panels


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


def test_a_methods_own_settings_are_no_difference_that_needs_saying(sweep) -> None:
    for seed in range(3):
        for sparsity in (0.8, 0.98):
            finished(sweep, "px+ranking=erk", sparsity, seed, 0.5, ranking="erk", epochs=10 if seed else 99)
    (panel,) = panels(read_runs(sweep))
    assert panel.methods == ["px", "px+ranking=erk", "random"]
    assert caveats([panel]) == ["not all runs have the same epochs: 10, 99"]


@pytest.mark.parametrize(
    ("files", "notes"),
    [
        (("mine.py", "mine.py"), []),
        (("mine.py", "other.py"), ['not all runs have the same criteria: "mine.py", "other.py"']),
    ],
)
def test_files_of_criteria_differ_where_there_are_two(sweep, files: tuple[str, str], notes: list[str]) -> None:
    for seed in range(3):
        for sparsity, file in zip((0.8, 0.98), files, strict=True):
            finished(sweep, "snip", sparsity, seed, 0.5, criteria=file)
    assert caveats(panels(read_runs(sweep))) == notes


def test_other_weights_under_one_name_and_other_colours_are_said(sweep) -> None:
    """Runs of before these were written down say nothing."""
    for seed, (digest, mean) in enumerate((("1", 0.5), ("1", 0.5), ("2", 0.4))):
        file = finished(sweep, "snip", 0.8, seed, 0.5) / "results.json"
        file.write_text(
            json.dumps(
                json.loads(file.read_text())
                | {"weights_loaded": {"source": "a.pth", "digest": digest}, "normalisation": {"mean": [mean]}}
            )
        )
    notes = [note for note in caveats(panels(read_runs(sweep))) if "lacks" not in note]
    assert notes == [
        "not all runs have the same weights: a.pth, digest 1, a.pth, digest 2",
        'not all runs have the same normalisation: {"mean": [0.4]}, {"mean": [0.5]}',
    ]


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
    with pytest.raises(InputError, match="does not agree with itself"):
        read_runs(tmp_path)
