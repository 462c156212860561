"""`px_seg preservation`: rows, table and figure of networks that are pruned and not trained."""

import csv
from pathlib import Path

import pytest
import torch
from helpers.runs import classify, script

from px_seg import InputError, build_classifier
from px_seg.commands import main
from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.measures import PreservationMeasure
from px_seg.comparison.preservation_rows import PreservationRow, read_rows, table, write_rows
from px_seg.data.base import LabelledImage
from px_seg.data.synthetic import SyntheticObjects

SPARSITIES = "0.5,0.9"


@pytest.fixture
def start(tmp_path) -> Path:
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "start" / "model")
    return tmp_path / "start" / "model"


def words(small: Path, start: Path, out: Path, *more: object) -> list[str]:
    """What is asked for unless `more`, flags and values in turns, asks for something else."""
    asked = {"--task": "cls", "--config": small, "--weights": start, "--sparsities": SPARSITIES, "--images": 10}
    kept = [
        word for flag, value in {**asked, "--output_dir": out}.items() if flag not in more for word in (flag, value)
    ]
    return [str(word) for word in ("preservation", *kept, *more)]


def test_methods_are_compared_and_a_stopped_comparison_goes_on(small, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    asked = words(small, start, out, "--methods", "random,magnitude+ranking=erk")
    main(asked)
    said = capsys.readouterr().out
    rows = read_rows(out)
    assert [row[:3] for row in rows] == [(m, s, 0) for m in ("random", "magnitude+ranking=erk") for s in (0.5, 0.9)]
    written = {"preservation.md", "preservation.png", "preservation.svg", "settings.yaml"}
    assert written < {path.name for path in out.iterdir()}
    assert "4 of 4: magnitude+ranking=erk 90.00% seed 0: CKA of encoder." in said
    assert (out / "preservation.md").read_text().strip() in said
    # The network is that of a run, and so is what a run says of it.
    flags = (
        "--config",
        small,
        "--weights",
        start,
        "--method",
        "magnitude",
        "--ranking",
        "erk",
        "--sparsity",
        0.9,
        "--epochs",
        0,
    )
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
    assert "3 of 4: magnitude+ranking=erk 50.00%" in again
    assert "random 50.00% seed 0:" not in again
    assert [row[:6] for row in read_rows(out)] == [row[:6] for row in rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "px,dense"), "every network is compared with the dense one: leave dense out"),
        (("--methods", "imp"), "imp trains to find its masks, and a comparison trains nothing: leave it out"),
        (("--methods", "pixie"), "there is no method 'pixie'"),
        (("--methods", "px", "--images", "1"), "--images must be at least 4, got 1"),
        (("--methods", "px", "--sparsities", "1.2"), "a sparsity must be a share above 0 and below 1, got 1.2"),
        (("--methods", "px", "--pruning.settings.conserve", "2"), "conserve must be a number from 0 to 1, got 2"),
        (("--methods", "px", "--pruning.settings.probes", "2"), "the method px has no setting probes"),
        (("--methods", "px", "stray"), "unrecognized arguments: stray"),
        (("--methods", "px", "--data.name", "folder", "--data.root", "nowhere"), "nowhere"),
        (("--methods",), "expected one argument"),
        (("--methods", "px", "--images", "1000"), "validation images, fewer than the 1000 to compare on"),
        (("--methods", "px", "--sparsities", "0"), "a sparsity of 0 is the dense network, which all are compared with"),
        (("--methods", "px", "--reinit"), "leave --reinit out"),
        # Not the first method, nor the first sparsity.
        (("--methods", "random,px", "--pruning.batches", "1000"), "pruning.batches"),
        (("--methods", "random", "--sparsities", "0.5,0.9999999"), "0.9999999"),
        (("--methods", "random", "--output_dir", "/proc/nowhere"), "/proc/nowhere cannot be written to"),
        (("--methods", "random", "--output_dir", f"{__file__}/below"), "cannot be written to: give another"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(small, start, tmp_path, capsys, more, message) -> None:
    with pytest.raises(SystemExit) as end:
        main(words(small, start, tmp_path / "out", *more))
    said = capsys.readouterr().err
    assert end.value.code == 2
    # Bars of progress are overwritten.
    assert said.rsplit("\r", 1)[-1].startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_folder_is_of_one_comparison(small, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    main(words(small, start, out, "--methods", "random"))
    for more, message in (
        (
            ("--methods", "random", "--images", "12"),
            "holds a comparison with other settings (images is 10 there, 12 now)",
        ),
        (("--methods", "random", "--output_dir", str(start)), "holds something else"),
    ):
        with pytest.raises(SystemExit):
            main(words(small, start, out, *more))
        assert message in capsys.readouterr().err
    # How one would train, and where the data lies, decides nothing.
    main(words(small, start, out, "--methods", "random", "--epochs", "7"))
    assert "1 of 2" not in capsys.readouterr().out
    (out / "preservation.csv").write_text("method,sparsity\nrandom,0.5\n")
    with pytest.raises(SystemExit):
        main(words(small, start, out, "--methods", "random"))
    assert "preservation.csv is damaged" in capsys.readouterr().err


def test_a_folder_of_before_a_setting_came_goes_on(small, tmp_path, capsys) -> None:
    """What it does not say is the default, and nothing else."""
    out, words = (
        tmp_path / "out",
        ("--task", "cls", "--config", str(small), "--methods", "random", "--sparsities", "0.5"),
    )
    main(["widths", *words, "--output_dir", str(out)])
    file = out / "settings.yaml"
    kept = [line for line in file.read_text().splitlines() if not line.startswith(("class_weights:", "granularity:"))]
    file.write_text("\n".join(kept))
    main(["widths", *words, "--output_dir", str(out)])
    file.write_text("\n".join(kept))
    with pytest.raises(SystemExit):
        main(["widths", *words, "--granularity", "filter", "--output_dir", str(out)])
    assert "other settings (granularity is weight there, filter now)" in capsys.readouterr().err


def test_rows_of_a_file_that_was_replaced_are_not_mixed_with_new_ones(small, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    main(words(small, start, out, "--methods", "random"))
    before = (out / "preservation.csv").read_bytes()
    torch.manual_seed(1)
    build_classifier("resnet20", 15, "none").save_pretrained(start)
    with pytest.raises(SystemExit):
        main(words(small, start, out, "--methods", "random,magnitude"))
    assert "holds a comparison with other settings (weights_digest is " in capsys.readouterr().err
    assert (out / "preservation.csv").read_bytes() == before


def test_rows_of_other_training_images_neither(small, start, tmp_path, capsys, monkeypatch) -> None:
    main(words(small, start, tmp_path / "out", "--methods", "random"))
    usual = SyntheticObjects.__getitem__

    def negative(self: SyntheticObjects, index: int) -> LabelledImage:
        sample = usual(self, index)
        return sample._replace(image=255 - sample.image) if self.split == "train" else sample

    monkeypatch.setattr(SyntheticObjects, "__getitem__", negative)
    with pytest.raises(SystemExit):
        main(words(small, start, tmp_path / "out", "--methods", "random,magnitude"))
    assert "holds a comparison with other settings (train_digest is " in capsys.readouterr().err


def test_an_interrupted_first_write_is_nothing_in_the_way(small, start, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.yaml.0123abcd.new").write_text("task: c")
    main(words(small, start, out, "--methods", "random"))
    assert len(read_rows(out)) == 2


def test_rows_that_another_process_wrote_in_the_meantime_stay(tmp_path) -> None:
    first, second = (ComparisonFolder(PreservationMeasure.kind, tmp_path / "out", {"images": 8}) for _ in range(2))

    def row(method: str) -> PreservationRow:
        return PreservationRow(method, 0.5, 0, 0.5, 0.5, 0, 0.5, 1.0, 1.0, {"a": 0.5})

    def in_between() -> PreservationRow:
        second.complete({("b", 0.5, 0): lambda: row("b")}, 8, "", lambda _: None)
        return row("a")

    first.complete({("a", 0.5, 0): in_between}, 8, "", lambda _: None)
    assert {found.method for found in read_rows(tmp_path / "out")} == {"a", "b"}


def test_shuffled_masks_are_those_of_a_run(small, start, tmp_path) -> None:
    rows = []
    for name, more in (("plain", ()), ("shuffled", ("--shuffle_masks",))):
        main(words(small, start, tmp_path / name, "--methods", "magnitude", *more))
        rows.append(read_rows(tmp_path / name)[0])
    assert rows[0].cka != rows[1].cka
    flags = ("--config", small, "--weights", start, "--method", "magnitude", "--sparsity", 0.5, "--epochs", 0)
    results = classify(*flags, "--preservation_images", 10, "--shuffle_masks", "--output_dir", tmp_path / "run")
    assert results["preservation"]["cka"] == rows[1].cka


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

@register("crashing")
class Crashing(Cutting):
    def score(self, model, batches=(), masks=None, scope=None, group=None):
        return super().score(model, scope=scope) if masks is None or masks.density == 1 else 1 / 0
"""


def test_what_leaves_no_path_is_named_and_the_rest_compared(small, start, tmp_path, capsys) -> None:
    (tmp_path / "cutting.py").write_text(CUT)
    own = ("--criteria", tmp_path / "cutting.py")
    asked = words(small, start, tmp_path / "out", "--methods", "cutting,random", *own)
    with pytest.raises(SystemExit) as end:
        main(asked)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "not compared: cutting 90.00% seed 0: no path is left" in said.out
    assert "error: 1 of 4 networks could not be compared; the first: cutting 90.00% seed 0: no path" in said.err
    rows = read_rows(tmp_path / "out")
    assert [row[:2] for row in rows] == [("cutting", 0.5), ("random", 0.5), ("random", 0.9)]
    with pytest.raises(SystemExit):
        main(words(small, start, tmp_path / "out", "--methods", "crashing", *own))
    line = CUT[: CUT.index("1 / 0")].count("\n") + 1
    expected = (
        f"not compared: crashing 90.00% seed 0: {tmp_path}/cutting.py:{line}: crashing cannot score: ZeroDivision"
    )
    assert expected in capsys.readouterr().out
    # The file is part of the rows of its own methods alone.
    main(words(small, start, tmp_path / "out", "--methods", "magnitude"))
    assert "magnitude" in {row.method for row in read_rows(tmp_path / "out")}
    (tmp_path / "cutting.py").write_text(CUT + "# changed\n")
    with pytest.raises(SystemExit):
        main(asked)
    assert (
        "holds rows of cutting by another file of criteria or masks: give another --output_dir"
        in capsys.readouterr().err
    )
    settings = tmp_path / "out" / "settings.yaml"
    settings.write_text(settings.read_text().partition("criteria_files:")[0] + "criteria_files: damaged\n")
    with pytest.raises(SystemExit):
        main(asked)
    assert "with other settings (criteria_files is damaged there" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_says_what_it_is(small) -> None:
    done = script("--help", name="preservation")
    assert done.returncode == 0
    assert "usage: px_seg preservation --methods A,B" in done.stdout


def test_a_table_has_means_over_seeds(tmp_path) -> None:
    rows = [
        PreservationRow("px", 0.9, seed, agreement, 0.5, 1, 0.91, None, 2.0, {"a": 0.5, "b": agreement})
        for seed, agreement in ((0, 0.2), (1, 0.4))
    ]
    text = table(rows, 8)
    assert "Before any training, on 8 images, 2 seeds:" in text
    assert "| `px` | 90% | 0.500 | 0.300 | 30.0% | 0.500 | 91.00% |  | 1 | 2.0 |" in text
    write_rows(tmp_path, rows)
    assert read_rows(tmp_path) == rows
    assert read_rows(tmp_path / "none") == []
    whole = (tmp_path / "preservation.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    for damaged in (
        b"a,b\n1,2\n",
        whole[:-3],
        whole + lines[1],
        whole.replace(b"0.4,", b"7.0,"),
        whole.replace(b"0.4,", b"nan,"),
        lines[0] + lines[1][:-1] + b",0.5\n",
        b"\xff\xfe" + whole,
        b"method,sparsity,seed,agreement,error,empty_layers,effective_sparsity,live_channels,prune_seconds\n"
        b"px,0.9,0,0.2,0.5,1,0.9,1.0,2.0\n",
    ):
        (tmp_path / "preservation.csv").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_rows(tmp_path)
    assert "| `px` | 90% (1 of 2 seeds) |" in table([*rows[:1], rows[1]._replace(method="snip")], 8)
