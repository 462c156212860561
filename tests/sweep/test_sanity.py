"""Sanity checks: which runs they are, and the table of them."""

from pathlib import Path

import pytest
from helpers.sweeps import asked, finished, names, request

from px_seg import InputError
from px_seg.commands import main
from px_seg.report.reading import read_runs
from px_seg.report.runs import panels
from px_seg.report.tables import made, sanity_table
from px_seg.sweep import plan_sweep
from px_seg.sweep.methods import Method, criterion_of
from px_seg.sweep.sanity import check_requests, checks_of, named_checks


def test_every_check_of_a_method_is_a_method_of_a_second_sweep(tmp_path) -> None:
    first, second = check_requests(request(tmp_path / "out", methods=("px+rounds=3", "magnitude", "dense")))
    assert first.methods == ("px+rounds=3", "magnitude", "dense")
    cells = {cell.method: cell for cell in plan_sweep(second) if (cell.config.sparsity, cell.config.seed) == (0.98, 1)}
    assert sorted(cells) == sorted(
        [
            "px+rounds=3+shuffle_masks=true",
            "px+reinit=true+rounds=3",
            "random+density_from=px+rounds-3",
            "magnitude+density_from=px+rounds-3",
            "magnitude+shuffle_masks=true",
            "magnitude+reinit=true",
            "random+density_from=magnitude",
        ]
    )
    plan = {name: cell.config for name, cell in cells.items()}
    assert plan["px+reinit=true+rounds=3"].reinit
    assert plan["px+rounds=3+shuffle_masks=true"].shuffle_masks
    given = plan["magnitude+density_from=px+rounds-3"]
    assert (given.method, given.rounds) == ("magnitude", 2)
    # The run of the same sparsity and seed.
    assert given.density_from == str(tmp_path / "out" / "px+rounds=3" / "0.98" / "seed1")
    assert criterion_of("magnitude+density_from=px+rounds-3") == "magnitude"


def test_checks_that_would_be_the_method_again_are_left_out() -> None:
    assert list(checks_of("random_erk")) == ["masks shuffled", "new weights", "magnitude in its layers"]
    assert list(checks_of("magnitude+ranking=erk")) == ["masks shuffled", "new weights", "random in its layers"]
    assert Method.of(checks_of("px+rounds=3")["random in its layers"]).settings == (("density_from", "(px+rounds=3)"),)
    kept = checks_of("px+keep_dense=[encoder.conv1]")["random in its layers"]
    assert dict(Method.of(kept).settings)["keep_dense"] == "[encoder.conv1]"
    for method in ("px+shuffle_masks=true", "random+density_from=px", "px+reinit=true"):
        with pytest.raises(InputError, match="is a check already"):
            check_requests(asked("--methods", method, "--sparsities", "0.9", "--output_dir", "out"))


def test_a_path_stays_a_path_and_an_unknown_method_is_refused(tmp_path) -> None:
    words = ("--sparsities", "0.9", "--output_dir", "out")
    (cell,) = plan_sweep(asked("--methods", "random+density_from=runs/px", *words))
    assert cell.config.density_from == "runs/px"
    assert names([cell]) == ["out/random+density_from=px/0.9/seed0"]
    with pytest.raises(InputError, match="has a parenthesis too many"):
        plan_sweep(asked("--methods", "random+density_from=(px", *words))
    with pytest.raises(InputError, match="there is no method 'pixie'"):
        plan_sweep(asked("--methods", "random+density_from=pixie", *words))


def test_the_table_has_the_checks_beside_their_method(tmp_path) -> None:
    scores = {"px": (0.70, 0.72), **{name: (0.60, 0.66) for name in named_checks("px").values()}, "random": (0.5, 0.5)}
    for method, values in scores.items():
        for seed, score in enumerate(values):
            finished(tmp_path / "out", method, 0.8, seed, score + seed * 1e-6)
    (panel,) = panels(read_runs(tmp_path / "out"))
    table = sanity_table(panel)
    assert table in made(panel)
    assert [row[:3] for row in table.rows] == [
        ["px", "80.00%", what]
        for what in ("as it is", "masks shuffled", "new weights", "random in its layers", "magnitude in its layers")
    ]
    assert table.rows[0][3].startswith("71.00 ± ")
    # -10 and -6 points: -8 in the mean.
    assert table.rows[1][4].replace("\N{MINUS SIGN}", "-").startswith("-8.00 [")
    finished(tmp_path / "other", "px", 0.8, 0, 0.7)
    (panel,) = panels(read_runs(tmp_path / "other"))
    assert sanity_table(panel) is None


@pytest.mark.slow
def test_the_command_carries_them_out(small, tmp_path, capsys) -> None:
    words = ["sanity", "--task", "cls", "--config", small, "--methods", "magnitude", "--sparsities", "0.9"]
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--gpus", "none", "--output_dir", str(tmp_path / "out")])
    assert end.value.code == 0
    text = (tmp_path / "out" / "report" / "table.md").read_text()
    for what in ("as it is", "masks shuffled", "new weights", "random in its layers"):
        assert f"| magnitude | 90.00% | {what} |" in text
    runs = {path.parent.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("results.json")}
    assert runs == {"dense", "magnitude", *named_checks("magnitude").values()}


def test_bad_input_is_one_line(tmp_path, capsys) -> None:
    for words, message in (
        (("--methods", "px+shuffle_masks=true", "--sparsities", "0.9"), "is a check already: leave shuffle_masks out"),
        (("--methods", "dense", "--sparsities", "0.9"), "give a method that prunes"),
        (("--methods", "px", "--sparsities", "0.9", "--reinit", "true"), "--reinit is one of the checks"),
        (("--methods", "px", "--sparsities", "0.9", "--ranking", "erk"), "the check random+density_from=px cannot be"),
        (("--methods", "px"), "no sparsity to prune to: give --sparsities"),
        (
            ("--methods", "px", "--sparsities", "0.9", "--granularity", "filter"),
            "the check px+shuffle_masks=true cannot",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            main(["sanity", *words, "--dry_run", "--output_dir", str(tmp_path / "out")])
        said = capsys.readouterr().err
        assert (end.value.code, said.count("\n")) == (2, 1)
        assert message in said
        assert not Path(tmp_path / "out").exists()
