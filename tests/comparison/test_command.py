"""`px_seg preservation`: rows, table and figure of networks that are pruned and not trained."""

import csv
from pathlib import Path

import pytest
from helpers.runs import classify, script

from px_seg import InputError, build_classifier
from px_seg.commands import main
from px_seg.comparison.rows import Row, read_rows, table, write_rows

SPARSITIES = "0.5,0.9"


@pytest.fixture
def start(tmp_path) -> Path:
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "start" / "model")
    return tmp_path / "start" / "model"


def words(small: Path, start: Path, out: Path, *more: object) -> list[str]:
    given = ("--task", "cls", "--config", small, "--weights", start, "--sparsities", SPARSITIES, "--images", 10)
    return [str(word) for word in ("preservation", *given, "--output_dir", out, *more)]


def test_methods_are_compared_and_a_stopped_comparison_goes_on(small, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    asked = words(small, start, out, "--methods", "random,magnitude")
    main(asked)
    said = capsys.readouterr().out
    rows = read_rows(out / "preservation.csv")
    assert [row[:3] for row in rows] == [(m, s, 0) for m in ("random", "magnitude") for s in (0.5, 0.9)]
    written = {"preservation.md", "preservation.png", "preservation.svg", "settings.yaml"}
    assert written < {path.name for path in out.iterdir()}
    assert "4 of 4: magnitude 90.00% seed 0: CKA of encoder." in said
    assert (out / "preservation.md").read_text().strip() in said
    # The network is that of a run, and so is what a run says of it.
    flags = ("--config", small, "--weights", start, "--method", "magnitude", "--sparsity", 0.9, "--epochs", 0)
    results = classify(*flags, "--preservation_images", 10, "--output_dir", tmp_path / "run")
    assert results["preservation"] == {
        **{"cka": rows[3].cka, "agreement": rows[3].agreement},
        **{"error": rows[3].error, "images": 10},
    }

    with (out / "preservation.csv").open() as file:
        lines = list(csv.reader(file))
    (out / "preservation.csv").write_text("\n".join(",".join(line) for line in lines[:3]) + "\n")
    main(asked)
    again = capsys.readouterr().out
    assert "3 of 4: magnitude 50.00%" in again
    assert "random 50.00% seed 0:" not in again
    assert [row[:6] for row in read_rows(out / "preservation.csv")] == [row[:6] for row in rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "px,dense"), "every network is compared with the dense one: leave dense out"),
        (("--methods", "imp"), "imp trains to find its masks, and a comparison trains nothing: leave it out"),
        (("--methods", "pixie"), "there is no method 'pixie'"),
        (("--methods", "px", "--images", "1"), "--images must be at least 2, got 1"),
        (("--methods", "px", "--sparsities", "1.2"), "a sparsity must be a share above 0 and below 1, got 1.2"),
        (("--methods", "px", "--pruning.settings.conserve", "2"), "conserve must be a number from 0 to 1, got 2"),
        (("--methods", "px", "--pruning.settings.probes", "2"), "the method px has no setting probes"),
        (("--methods", "px", "stray"), "unrecognized arguments: stray"),
        (("--methods", "px", "--data.name", "folder", "--data.root", "nowhere"), "nowhere"),
        (("--methods",), "expected one argument"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(small, start, tmp_path, capsys, more, message) -> None:
    with pytest.raises(SystemExit) as end:
        main(words(small, start, tmp_path / "out", *more))
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_folder_is_of_one_comparison(small, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    main(words(small, start, out, "--methods", "random"))
    for more, message in (
        (("--methods", "random", "--images", "12"), "holds a comparison with other settings"),
        (("--methods", "random", "--output_dir", str(start)), "holds something else"),
    ):
        with pytest.raises(SystemExit):
            main(words(small, start, out, *more))
        assert message in capsys.readouterr().err
    (out / "preservation.csv").write_text("method,sparsity\nrandom,0.5\n")
    with pytest.raises(SystemExit):
        main(words(small, start, out, "--methods", "random"))
    assert "preservation.csv is damaged" in capsys.readouterr().err


CUT = """
from px_seg import Criterion, prunable, register
from px_seg.pruning import NoPathLeft

@register("cutting")
class Cutting(Criterion):
    rounds = 2

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        if masks is not None and masks.density < 0.5:
            raise NoPathLeft("no path is left")
        return {name: weight.detach().abs() for name, weight in prunable(model, scope).items()}
"""


def test_what_leaves_no_path_is_named_and_the_rest_compared(small, start, tmp_path, capsys) -> None:
    (tmp_path / "cutting.py").write_text(CUT)
    asked = words(small, start, tmp_path / "out", "--methods", "cutting,random", "--criteria", tmp_path / "cutting.py")
    with pytest.raises(SystemExit) as end:
        main(asked)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "not compared: cutting 90.00% seed 0: no path is left" in said.out
    assert "error: 1 of 4 networks could not be compared; the first: cutting 90.00% seed 0: no path" in said.err
    rows = read_rows(tmp_path / "out" / "preservation.csv")
    assert [row[:2] for row in rows] == [("cutting", 0.5), ("random", 0.5), ("random", 0.9)]


@pytest.mark.slow
def test_the_script_says_what_it_is(small) -> None:
    done = script("--help", name="preservation")
    assert done.returncode == 0
    assert "usage: px_seg preservation --weights W" in done.stdout


def test_a_table_has_means_over_seeds(tmp_path) -> None:
    rows = [
        Row("px", 0.9, seed, agreement, 0.5, 1, 2.0, {"a": 0.5, "b": agreement})
        for seed, agreement in ((0, 0.2), (1, 0.4))
    ]
    text = table(rows, 8)
    assert "Before any training, on 8 images, 2 seeds:" in text
    assert "| `px` | 90% | 0.500 | 0.300 | 30.0% | 0.500 | 1 | 2.0 |" in text
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv") == rows
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="damaged"):
        read_rows(tmp_path / "rows.csv")
