"""From a sweep's words to its request, and the command itself with real runs."""

import json

import pytest
from helpers.runs import script
from helpers.sweeps import SMALL, asked

from px_seg import InputError
from px_seg.commands import main
from px_seg.run.setup import check_settings
from px_seg.sweep import plan_sweep


def test_flags_override_a_preset(tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("methods: [px]\nsparsities: [0.5]\nrun: {epochs: 3, data: {size: 48}}\n")
    (cell,) = plan_sweep(asked("--preset", own, "--sparsities", "0.7", "--epochs", "4"))
    assert str(cell.folder) == "runs/own/px/0.7/seed0"
    assert (cell.config.epochs, cell.config.data.size) == (4, 48)
    own.write_text("method: [px]\n")
    with pytest.raises(InputError, match="holds the unknown key method; the valid keys are: task, methods"):
        asked("--preset", own)


@pytest.mark.parametrize(
    "text",
    [
        *("vary: 3", "vary: null", "vary: {rounds: 3}", "vary: {encoder: resnet18}", "vary: {config: [3]}", "run: [1]"),
        *(
            "run: {3: 4}",
            "config: 3",
            "seeds: null",
            "methods: {a: b}",
            "jobs: null",
            "sparsities: much",
            "task: [seg]",
        ),
    ],
)
def test_a_preset_of_the_wrong_kind_is_named(tmp_path, text) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"{text}\n")
    with pytest.raises(InputError, match=rf"own\.yaml: {text.partition(':')[0]} takes "):
        asked("--preset", own, "--methods", "px")


GIVEN = ("--methods", "px", "--sparsities", "0.9", "--output_dir", "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_dir", "out"], "no method to sweep: give --methods"),
        (["--methods", "px", "--sparsities", "0.9"], "a sweep needs a folder: give --output_dir"),
        (["--methods", "px", "--output_dir", "out"], "no sparsity to prune to: give --sparsities"),
        ([*GIVEN, "--methods", "foo"], "there is no method 'foo'"),
        ([*GIVEN, "--methods", "px,px"], "methods has px twice"),
        ([*GIVEN, "--methods", ","], "--methods: takes names separated by commas, got ','"),
        ([*GIVEN, "--sparsities", "0,0.5"], "sparsity 0 is the dense network: give dense"),
        ([*GIVEN, "--sparsities", "80"], "above 0 and below 1, got 80"),
        ([*GIVEN, "--sparsities", "much"], "--sparsities: takes numbers separated by commas, got 'much'"),
        ([*GIVEN, "--seeds", "a"], "--seeds: takes whole numbers"),
        ([*GIVEN, "--seeds", "-1"], "seed must be at least 0"),
        ([*GIVEN, "--vary", "rounds"], "takes a key and its values"),
        ([*GIVEN, "--vary", "rounds="], "rounds has no value"),
        ([*GIVEN, "--vary", "rounds=1", "--vary", "rounds=2"], "names a key twice"),
        ([*GIVEN, "--vary", "sparsity=0.5"], "--sparsity is not given for runs that are compared: give --sparsities"),
        ([*GIVEN, "--vary", "nope=1"], "nope"),
        ([*GIVEN, "--masks", "runs/a"], "--masks is not given for runs that are compared: every run finds its own"),
        ([*GIVEN, "--sparsity", "0.5"], "--sparsity is not given for runs that are compared: give --sparsities"),
        ([*GIVEN, "--resume"], "a run that was stopped continues by itself"),
        ([*GIVEN, "--vary", "weights=a/run,b/run"], "would share the folder"),
        ([*GIVEN, "--sparsities", "0.9999991,0.9999992"], "would share the folder"),
        ([*GIVEN, "--vary", "epochs=1,2", "--epochs", "3"], "--epochs is both given and varied"),
        ([*GIVEN, "--preset", "nope"], "there is no preset 'nope': choose one of batches, criteria_scratch"),
        ([*GIVEN, "--task", "det"], "invalid choice: 'det'"),
        ([*GIVEN, "--vary", "optimizer.head_lr=0.1,1e-1"], "mean the same"),
        ([*GIVEN, "--methods", "px,px+ranking=null"], r"px and px\+ranking=null mean the same run"),
        ([*GIVEN, "--methods", "px+rounds=3,px+rounds=03"], r"px\+rounds=3 and px\+rounds=03 mean the same run"),
        ([*GIVEN, "--vary", "data.workers=0,1"], "changes how a run is carried out"),
        ([*GIVEN, "--config", "--epochs", "3"], "--config takes the path of a file"),
        ([*GIVEN, "--gpus", ","], "takes numbers separated by commas, or none"),
        ([*GIVEN, "stray"], "'stray' belongs to no flag"),
        ([*GIVEN, "--epoch", "3"], "unrecognized"),
        ([*GIVEN, "--rounds", "many"], "rounds"),
    ],
)
def test_bad_input_is_one_clear_line(words, message) -> None:
    def refuse() -> None:
        for cell in plan_sweep(asked(*words)):
            # What a run's own settings show is found when the sweep is checked.
            check_settings(cell.config)

    with pytest.raises(InputError, match=message) as error:
        refuse()
    assert "\n" not in str(error.value)


SHORT = ("--sparsities", "0.9", "--jobs", "2", *SMALL, "--encoder", "tu-test_resnet")


@pytest.mark.slow
def test_the_script_sweeps_and_reports(tmp_path, capsys) -> None:
    words = ("--methods", "random,dense", *SHORT, "--output_dir", str(tmp_path / "out"))
    done = script(*words, name="sweep")
    assert done.returncode == 0, done.stderr
    assert "report on 2 runs" in done.stdout
    results = json.loads((tmp_path / "out" / "random" / "0.9" / "seed0" / "results.json").read_text())
    assert results["sparsity"] == 0.9
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    with pytest.raises(SystemExit) as end:
        main(["sweep", *words])
    assert end.value.code == 0
    assert "2 runs: 2 done" in capsys.readouterr().out


def carried_out(*words: object) -> int:
    """The status of the command in this process; its runs have processes of their own."""
    with pytest.raises(SystemExit) as end:
        main(["sweep", *map(str, words), "--threads", "1"])
    return int(end.value.code)


@pytest.mark.slow
def test_the_script_sweeps_classification_too(tmp_path) -> None:
    short = (
        "--data.train_images",
        30,
        "--data.val_images",
        15,
        "--data.size",
        32,
        "--epochs",
        1,
        "--encoder",
        "resnet20",
    )
    words = ("--task", "cls", "--methods", "magnitude,dense", "--sparsities", "0.9", "--jobs", 2, *short)
    assert carried_out(*words, "--batch_size", 10, "--output_dir", tmp_path / "out") == 0
    assert "accuracy in %" in (tmp_path / "out" / "report" / "table.md").read_text()


@pytest.mark.slow
def test_a_failed_sweep_has_a_status_of_its_own_and_still_reports(tmp_path, capsys) -> None:
    # A learning rate that makes the loss infinite, which no check can foresee.
    place = SHORT.index("--epochs")
    longer = (*SHORT[:place], "--epochs", "2", *SHORT[place + 2 :])
    words = ("--methods", "random", *longer, "--output_dir", tmp_path / "out")
    assert carried_out(*words, "--vary", "optimizer.head_lr=0.1,1e30") == 1
    said = capsys.readouterr().out
    assert "training diverged" in said
    assert "report on 1 run" in said


def test_bad_input_at_the_command_line_is_one_line(tmp_path, capsys) -> None:
    words = ("--methods", "px", "--sparsities", "0.9", "--output_dir", str(tmp_path), "--nope", "3")
    with pytest.raises(SystemExit) as end:
        main(["sweep", *words])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
