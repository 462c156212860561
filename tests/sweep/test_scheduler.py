"""Sweeps: the grid, what is run and what is not, and what survives being stopped; most runs are stand-ins."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import accelerate.commands.launch
import pytest
from helpers.runs import CONFIGS, REPOSITORY, TESTS, make_voc, script
from helpers.sweeps import SMALL, directly, ran, request, stand_in
from helpers.waiting import grow_old, wait_for

from px_seg import InputError
from px_seg.run.setup import check_settings
from px_seg.sweep import PAPER, launchers, plan_sweep, run_sweep
from px_seg.sweep.claimed_run import Claim, with_ending
from px_seg.sweep.command_line import read
from px_seg.sweep.launchers import Beside, LocalLauncher, SlurmLauncher, command, shares, slurm_parameters, watched
from px_seg.sweep.plan import Request
from px_seg.sweep.status import duration, status_of


@pytest.fixture(autouse=True)
def _without_accelerate_launch(monkeypatch) -> None:
    monkeypatch.setattr(launchers, "command", directly)


def asked(*words: object) -> Request:
    return read([str(word) for word in words], "")[0]


def names(cells) -> list[str]:
    return [str(cell.folder) for cell in cells]


# The grid


def test_the_papers_sparsities_keep_64_percent_each_time() -> None:
    assert [f"{100 * s:.2f}" for s in PAPER] == [
        *("36.00", "59.04", "73.79", "83.22", "89.26", "93.13", "95.60", "97.19", "98.20")
    ]


def test_the_grid_is_every_method_sparsity_and_seed_and_one_dense_run_a_seed() -> None:
    cells = plan_sweep(
        asked("--methods", "px,snip,dense", "--sparsities", "paper", "--seeds", "0,1,2", "--output_dir", "runs/fig4")
    )
    assert len(cells) == len(set(names(cells))) == 3 * (2 * 9 + 1)
    assert "runs/fig4/px/0.9313/seed0" in names(cells)
    assert "runs/fig4/dense/0/seed2" in names(cells)
    for cell in cells:
        assert cell.config.output_dir == str(cell.folder)
        assert cell.folder.parts[-3:] == (
            *(cell.config.method, f"{cell.config.sparsity:g}", f"seed{cell.config.seed}"),
        )
    # One of each is done before the second seed begins.
    assert [cell.config.seed for cell in cells] == sorted(cell.config.seed for cell in cells)


def test_flags_and_files_reach_every_run(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 7\nbatch_size: 3\n")
    words = ("--config", file, "--data.size", 48, "--batch_size", 5, "--methods", "px", "--sparsities", "0.5")
    (cell,) = plan_sweep(asked(*words, "--output_dir", tmp_path / "out"))
    assert (cell.config.epochs, cell.config.data.size, cell.config.batch_size) == (7, 48, 5)


def test_what_is_varied_names_the_folders_and_the_dense_run_is_shared_where_it_feels_nothing() -> None:
    words = ("--methods", "px,dense", "--sparsities", "0.9", "--output_dir", "out")
    cells = plan_sweep(asked(*words, "--vary", "pruning.batches=1,2,4"))
    assert names(cells) == [
        "out/pruning.batches=1/px/0.9/seed0",
        "out/dense/0/seed0",
        "out/pruning.batches=2/px/0.9/seed0",
        "out/pruning.batches=4/px/0.9/seed0",
    ]
    assert [cell.config.pruning.batches for cell in cells] == [1, 2, 2, 4]
    # Where it feels what is varied, it is run for each.
    cells = plan_sweep(asked(*words, "--vary", "epochs=1,2", "--vary", "rounds=3,5"))
    assert Counter(cell.config.method for cell in cells) == {"px": 4, "dense": 2}
    assert {(c.config.epochs, c.config.rounds) for c in cells if c.config.method == "px"} == {
        *((1, 3), (1, 5), (2, 3), (2, 5))
    }
    assert all(c.config.rounds is None for c in cells if c.config.method == "dense")


def test_a_value_may_be_a_list_a_path_or_a_file_of_settings(tmp_path) -> None:
    words = ("--methods", "random", "--sparsities", "0.9", "--output_dir", "out")
    cells = plan_sweep(asked(*words, "--vary", "data.scale=[0.5,2.0],[1.0,1.0]"))
    assert [cell.config.data.scale for cell in cells] == [[0.5, 2.0], [1.0, 1.0]]
    assert names(cells)[0] == "out/data.scale=0.5-2.0/random/0.9/seed0"
    files = [CONFIGS / "cls" / f"{name}.yaml" for name in ("cifar10_resnet20", "cifar100_vgg16_bn")]
    cells = plan_sweep(asked(*words, "--task", "cls", "--vary", f"config={files[0]},{files[1]}"))
    assert [cell.config.encoder for cell in cells] == ["resnet20", "vgg16_bn"]
    assert names(cells)[1] == "out/config=cifar100_vgg16_bn/random/0.9/seed0"


def test_a_pattern_decides_the_sparsity_and_the_dense_reference_has_none() -> None:
    words = ("--methods", "magnitude,dense", "--output_dir", "out", "--keep_dense", "[encoder.conv1]")
    cells = plan_sweep(asked(*words, "--vary", "pattern=2:4,1:4"))
    assert [(c.config.method, c.config.pattern, c.config.sparsity) for c in cells] == [
        *(("magnitude", "2:4", 0.5), ("dense", None, 0.0), ("magnitude", "1:4", 0.75))
    ]
    with pytest.raises(InputError, match=r"means sparsity 0\.5: leave --sparsities out"):
        plan_sweep(asked(*words, "--pattern", "2:4", "--sparsities", "0.5"))


PRESETS = {
    # methods x sparsities x seeds + dense runs, for each combination
    "demo": 3 * 3 * 2 + 2,
    "fig2": 3 * (9 * 9 * 3 + 3),
    "fig3": 9 * (9 * 9 * 3 + 3),
    "fig4": 3 * (9 * 9 * 3 + 3),
    "batches": 4 * 3 + 3,
    "rounds": 4 * 3 + 3,
    "photo": 4 * 3 + 1,
    "photo_gpu": 4 * 3 + 1,
}


def test_every_preset_is_a_sweep() -> None:
    assert {file.stem for file in (CONFIGS / "sweep").glob("*.yaml")} == PRESETS.keys()
    for name, runs in PRESETS.items():
        cells = plan_sweep(asked("--preset", name))
        assert len(cells) == runs, name
        assert cells[0].folder.parts[:2] == ("runs", name)
    encoders = {cell.config.encoder for cell in plan_sweep(asked("--preset", "fig3")) if cell.config.weights == "clip"}
    assert encoders == {"tu-resnet50_clip"}
    assert {cell.config.data.evaluation for cell in plan_sweep(asked("--preset", "fig4"))} == {"centre_crop"}


def test_flags_override_a_preset(tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("methods: [px]\nsparsities: [0.5]\nrun: {epochs: 3, data: {size: 48}}\n")
    (cell,) = plan_sweep(asked("--preset", own, "--sparsities", "0.7", "--epochs", "4"))
    assert str(cell.folder) == "runs/own/px/0.7/seed0"
    assert (cell.config.epochs, cell.config.data.size) == (4, 48)
    own.write_text("method: [px]\n")
    with pytest.raises(InputError, match="holds the unknown key method; the valid keys are: task, methods"):
        asked("--preset", own)


def test_what_a_command_line_varies_or_gives_replaces_what_a_preset_varies() -> None:
    def weights(*words: str) -> set[str]:
        return {cell.config.weights for cell in plan_sweep(asked("--preset", "fig4", "--methods", "dense", *words))}

    assert weights() == {"imagenet", "mocov2", "dino"}
    assert weights("--vary", "weights=dino,none") == {"dino", "none"}
    assert weights("--weights", "none") == {"none"}


def test_the_order_of_the_flags_names_no_other_run() -> None:
    words = ("--methods", "px", "--sparsities", "0.9", "--output_dir", "out")
    first, second = ("--vary", "epochs=1,2"), ("--vary", "batch_size=4,8")
    assert set(names(plan_sweep(asked(*words, *first, *second)))) == set(
        names(plan_sweep(asked(*words, *second, *first)))
    )


def test_a_file_of_settings_decides_nothing_that_is_the_sweeps(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("overwrite: true\n")
    with pytest.raises(InputError, match="sets overwrite: leave it out"):
        plan_sweep(asked("--methods", "px", "--sparsities", "0.9", "--output_dir", "out", "--config", file))


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
        ([*GIVEN, "--methods", ","], "no method to sweep"),
        ([*GIVEN, "--sparsities", "0,0.5"], "sparsity 0 is the dense network: give dense"),
        ([*GIVEN, "--sparsities", "80"], "above 0 and below 1, got 80"),
        ([*GIVEN, "--sparsities", "much"], "--sparsities: takes numbers separated by commas, got 'much'"),
        ([*GIVEN, "--seeds", "a"], "--seeds: takes whole numbers"),
        ([*GIVEN, "--seeds", "-1"], "seed must be at least 0"),
        ([*GIVEN, "--vary", "rounds"], "takes a key and its values"),
        ([*GIVEN, "--vary", "rounds="], "rounds has no value"),
        ([*GIVEN, "--vary", "rounds=1", "--vary", "rounds=2"], "names a key twice"),
        ([*GIVEN, "--vary", "sparsity=0.5"], "a sweep sets sparsity itself: give --sparsities"),
        ([*GIVEN, "--vary", "nope=1"], "nope"),
        ([*GIVEN, "--masks", "runs/a"], "a sweep sets masks itself: every run finds its own"),
        ([*GIVEN, "--sparsity", "0.5"], "a sweep sets sparsity itself: give --sparsities"),
        ([*GIVEN, "--resume"], "a run that was stopped continues by itself"),
        ([*GIVEN, "--vary", "weights=a/run,b/run"], "would share the folder"),
        ([*GIVEN, "--sparsities", "0.9999991,0.9999992"], "would share the folder"),
        ([*GIVEN, "--vary", "epochs=1,2", "--epochs", "3"], "--epochs is both given and varied"),
        ([*GIVEN, "--preset", "nope"], "there is no preset 'nope': choose one of batches, demo"),
        ([*GIVEN, "--task", "det"], "invalid choice: 'det'"),
        ([*GIVEN, "--vary", "optimizer.head_lr=0.1,1e-1"], "mean the same"),
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


# Carrying it out


def test_a_sweep_runs_all_once_and_says_what_came_of_it(tmp_path, capsys) -> None:
    launcher, whole = stand_in(tmp_path), request(tmp_path / "out")
    assert run_sweep(whole, launcher).unfinished == []
    expected = [f"seed{seed} {what}" for seed in (0, 1) for what in ("dense 0.0", "px 0.8", "px 0.98")]
    expected += [f"seed{seed} random {sparsity}" for seed in (0, 1) for sparsity in (0.8, 0.98)]
    assert ran(tmp_path) == sorted(expected)
    said = capsys.readouterr().out
    assert "10 runs: 10 to do; how long they take is known once the first has finished" in said
    assert "10 of 10: " in said
    assert "mIoU 50.00% in" in said

    # Asked for again, nothing is started; asked for more, only that.
    assert run_sweep(whole, launcher).unfinished == []
    run_sweep(request(tmp_path / "out", methods=("px", "snip")), launcher, dry_run=True)
    assert len(ran(tmp_path)) == 10
    said = capsys.readouterr().out
    assert "8 runs: 4 done, 4 to do, about" in said
    assert "with 2 at a time, judging by 4 finished, not counting pruning with snip" in said
    run_sweep(request(tmp_path / "out", methods=("px", "snip")), launcher)
    assert ran(tmp_path) == sorted([*expected, *(f"seed{i} snip {s}" for i in (0, 1) for s in (0.8, 0.98))])


def test_a_changed_configuration_or_launch_reuses_no_run(tmp_path) -> None:
    launcher = stand_in(tmp_path)
    run_sweep(request(tmp_path / "out", methods=("random",)), launcher)
    with pytest.raises(InputError, match=r"random/0.8/seed0 had another configuration \(differs in epochs\)"):
        run_sweep(request(tmp_path / "out", methods=("random",), flags=(*SMALL, "--epochs", "2")), launcher)
    launcher.mixed_precision = "bf16"
    with pytest.raises(InputError, match="was launched with mixed_precision no, not bf16"):
        run_sweep(request(tmp_path / "out", methods=("random",)), launcher)
    assert len(ran(tmp_path)) == 4
    # How a run is carried out is not what comes of it.
    launcher.mixed_precision = "no"
    run_sweep(request(tmp_path / "out", methods=("random",), flags=(*SMALL, "--threads", "1")), launcher)
    assert len(ran(tmp_path)) == 4


def test_a_failed_run_is_kept_and_tried_again_only_when_asked_to(tmp_path, capsys) -> None:
    fail = "if config['method'] == 'px' and config['seed']: sys.exit('error: no luck')"
    sweep = request(tmp_path / "out", sparsities=(0.9,))
    failed = run_sweep(sweep, stand_in(tmp_path, fail)).unfinished
    assert [cell.name for cell in failed] == ["px 90.00% seed 1"]
    said = capsys.readouterr().out
    log = tmp_path / "out" / "sweep" / "px" / "0.9" / "seed1.log"
    assert f"not finished: px 90.00% seed 1: no luck (log: {log})" in said
    assert "tried again with --retry" in said
    assert "no luck" in log.read_text()

    working = stand_in(tmp_path)
    assert names(run_sweep(sweep, working).unfinished) == names(failed)
    assert len(ran(tmp_path)) == 6
    assert run_sweep(sweep, working, retry=True).unfinished == []
    assert len(ran(tmp_path)) == 7
    assert log.read_text().count("=== ") == 2


def test_what_cannot_work_is_found_before_anything_is_started(tmp_path) -> None:
    launcher = stand_in(tmp_path)
    for changes, message in (
        ({"flags": (*SMALL, "--pruning.batches", "1000")}, "1000"),
        ({"flags": (*SMALL, "--data.name", "voc2012", "--data.root", str(tmp_path)), "methods": ("random",)}, "VOC"),
        ({"flags": (*SMALL, "--batch_size", "1")}, "batch_size must be at least 2"),
        ({"vary": {"encoder": ("resnet18", "nope")}}, "nope"),
        ({"flags": (*SMALL, "--pruning.settings.temperature", "3")}, "no setting temperature"),
        ({"seeds": (0, -1)}, "seed must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            run_sweep(request(tmp_path / "out", **changes), launcher)
    assert ran(tmp_path) == []
    assert not (tmp_path / "out").exists()


DRIVER = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from helpers.sweeps import directly, request
from px_seg.errors import one_line_errors
from px_seg.sweep import run_sweep, launchers
launchers.command = directly
with one_line_errors("interrupted"):
    launcher = launchers.LocalLauncher([{folder!r} + "/seg.py"], jobs=2, gpus=())
    run_sweep(request(Path({folder!r}) / "out"), launcher)
"""


def driver(folder: Path) -> subprocess.Popen:
    """A sweep in a process of its own."""
    code = DRIVER.format(tests=str(TESTS), folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_sweeps_at_once_in_one_folder_do_no_run_twice(tmp_path) -> None:
    stand_in(tmp_path, "time.sleep(0.5)")
    sweeps = [driver(tmp_path) for _ in range(3)]
    said = [sweep.communicate(timeout=120)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0, 0], said
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert all("10 of 10: " in text or "10 done" in text for text in said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_told_to_end_ends_its_runs_and_goes_on_when_asked_again(tmp_path, number) -> None:
    stand_in(tmp_path, "time.sleep(600)")
    sweep = driver(tmp_path)
    wait_for(lambda: len(ran(tmp_path)) == 2, 60)
    sweep.send_signal(number)
    said, _ = sweep.communicate(timeout=60)
    assert (sweep.returncode, said.splitlines()[-1]) == (130, "interrupted")
    notes = tmp_path / "out" / "sweep"
    assert list(notes.rglob("*.claim-*")) == []
    assert [json.loads(file.read_text())["status"] for file in notes.rglob("seed*.json")] == ["stopped"] * 2

    assert run_sweep(request(tmp_path / "out"), stand_in(tmp_path)).unfinished == []
    counts = Counter(ran(tmp_path))
    assert len(counts) == 10
    assert sorted(counts.values()) == [1] * 8 + [2] * 2


def test_the_runs_of_a_killed_sweep_go_on_and_the_next_waits_for_them(tmp_path, capsys) -> None:
    stand_in(tmp_path, "time.sleep(4 if config['method'] == 'px' else 0)")
    sweep = driver(tmp_path)
    wait_for(lambda: len(ran(tmp_path)) == 2, 60)
    sweep.kill()
    sweep.communicate(timeout=60)
    run_sweep(request(tmp_path / "out"), LocalLauncher([str(tmp_path / "seg.py")], jobs=2, gpus=()))
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert "2 running" in capsys.readouterr().out


def test_sweeps_at_once_do_not_try_anew_what_failed_for_one_of_them(tmp_path) -> None:
    stand_in(tmp_path, "time.sleep(1)\nif config['method'] == 'px': sys.exit('error: no luck')")
    sweeps = [driver(tmp_path) for _ in range(2)]
    said = [sweep.communicate(timeout=120)[0] for sweep in sweeps]
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert all(text.count("not finished: px") == 4 for text in said), said


def test_a_run_under_way_is_not_looked_into(tmp_path) -> None:
    """Its files change: half a configuration is no damage."""
    (cell,) = plan_sweep(request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,)))
    cell.notes.parent.mkdir(parents=True)
    claim = Claim.take(cell.notes)
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").touch()
    assert status_of(cell, 1, "no").kind == "running"
    claim.release()
    with pytest.raises(InputError, match=r"config\.yaml is damaged"):
        status_of(cell, 1, "no")


def test_a_run_that_was_stopped_goes_on_in_the_launch_it_had(tmp_path) -> None:
    sweep = request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,))
    (cell,) = plan_sweep(sweep)
    (cell.folder / "checkpoint").mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(cell.config.to_yaml())
    progress = {"epoch": 1, "processes": 2, "mixed_precision": "no"}
    (cell.folder / "checkpoint" / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(InputError, match="was launched with processes 2, not 1"):
        run_sweep(sweep, stand_in(tmp_path))
    assert ran(tmp_path) == []


def test_a_folder_that_cannot_be_is_said_in_a_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file is a file, not a folder"):
            run_sweep(request(folder, methods=("random",)), stand_in(tmp_path), dry_run=True)


def test_a_folder_is_of_one_task(tmp_path) -> None:
    other = tmp_path / "out" / "magnitude" / "0.9" / "seed0"
    other.mkdir(parents=True)
    (other / "results.json").write_text(json.dumps({"task": "cls"}))
    with pytest.raises(InputError, match="holds runs of the task cls"):
        run_sweep(request(tmp_path / "out", methods=("random",)), stand_in(tmp_path), dry_run=True)


def test_damage_in_a_run_that_is_done_or_begun_is_named(tmp_path) -> None:
    sweep = request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,))
    run_sweep(sweep, stand_in(tmp_path))
    (cell,) = plan_sweep(sweep)
    with_ending(cell.notes, "json").write_text("{")
    assert status_of(cell, 1, "no").kind == "done"
    for text in ("null", "[]", "{", '{"seconds": {}}', '{"seconds": []}'):
        (cell.folder / "results.json").write_text(text)
        with pytest.raises(InputError, match=r"results\.json is damaged"):
            status_of(cell, 1, "no")
    (cell.folder / "results.json").unlink()
    assert status_of(cell, 1, "no").kind == "failed"
    (cell.folder / "checkpoint").mkdir()
    (cell.folder / "checkpoint" / "progress.json").write_text("{")
    with pytest.raises(InputError, match=r"progress\.json is damaged: delete the folder"):
        status_of(cell, 1, "no")


def test_a_launch_of_several_processes_is_checked_as_such(tmp_path) -> None:
    launcher = stand_in(tmp_path)
    launcher.processes = 4
    with pytest.raises(InputError, match="8 training images do not fill one batch of 4 on each of 4"):
        run_sweep(request(tmp_path / "out"), launcher, dry_run=True)


def test_a_run_whose_machine_went_down_is_taken_over(tmp_path) -> None:
    sweep = request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,))
    (cell,) = plan_sweep(sweep)
    cell.notes.parent.mkdir(parents=True)
    lost = Claim.take(cell.notes)
    assert status_of(cell, 1, "no").kind == "running"
    grow_old(lost.path)
    run_sweep(sweep, stand_in(tmp_path))
    assert len(ran(tmp_path)) == 1


# Where runs are carried out


def test_gpus_are_shared_out_evenly() -> None:
    assert shares(["0", "1", "2", "3"], 2) == [("0", "1"), ("2", "3")]
    assert shares(["4", "6"], 4) == [("4",), ("6",), ("4",), ("6",)]
    assert shares([], 2) == [(), ()]
    for gpus, jobs in ((3, 2), (4, 3), (2, 3)):
        with pytest.raises(InputError, match=f"{jobs} jobs cannot share {gpus} GPUs evenly"):
            shares([str(index) for index in range(gpus)], jobs)


def test_each_job_is_launched_with_its_gpus(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(launchers, "visible_gpus", lambda: ["4", "5", "6", "7"])
    started = []

    def start(words: list[str], text: str, environment: dict[str, str], log: Path) -> "Busy":
        started.append((words, environment))
        return Busy()

    monkeypatch.setattr(launchers, "_Process", start)
    monkeypatch.setattr(launchers, "command", command)
    launcher = LocalLauncher(["seg.py"], jobs=2, mixed_precision="fp16")
    assert (launcher.slots, launcher.processes) == (2, 2)
    for cell in plan_sweep(request(tmp_path, methods=("random",), seeds=(0,))):
        launcher.start(cell, 0)
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in started] == ["4,5", "6,7"]
    words = " ".join(started[0][0])
    assert "--num_processes 2 --mixed_precision fp16" in words
    assert "--multi_gpu --main_process_port 0" in words
    assert "--cpu" not in words
    assert LocalLauncher(["seg.py"]).slots == 4
    assert LocalLauncher(["seg.py"], gpus=[1, 3]).shares == [("5",), ("7",)]
    with pytest.raises(InputError, match="there is no GPU 4: 4 are visible"):
        LocalLauncher(["seg.py"], gpus=[4])


class Busy:
    def ended(self) -> bool:
        return False


def test_without_gpus_each_job_has_its_share_of_the_cores(tmp_path) -> None:
    launcher = LocalLauncher(["seg.py"], jobs=2, gpus=())
    (cell,) = plan_sweep(request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,)))
    words = command(cell, ["seg.py"], launcher.processes, False, "no", launcher.threads)
    assert words[-2:] == ["--threads", str(max(1, launchers.cores() // 2))]
    assert "--cpu" in words
    (cell,) = plan_sweep(
        request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,), flags=(*SMALL, "--threads", "3"))
    )
    assert "--threads" not in command(cell, ["seg.py"], 1, False, "no", 1)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"jobs": 10**11}, "at most 1024"),
        ({"mixed_precision": "fp8"}, "no mixed precision 'fp8'"),
    ],
)
def test_launches_that_cannot_be_are_refused(keywords, message) -> None:
    with pytest.raises(InputError, match=message):
        LocalLauncher(["seg.py"], **keywords)


def test_a_sweep_runs_through_submitit(tmp_path) -> None:
    stand_in(tmp_path)
    sweep = request(tmp_path / "out", methods=("random",))
    parameters = slurm_parameters(["timeout_min=5"])
    launcher = SlurmLauncher(
        [str(tmp_path / "seg.py")], tmp_path / "out" / "sweep" / "slurm", parameters, cluster="local"
    )
    assert run_sweep(sweep, launcher).unfinished == []
    assert len(ran(tmp_path)) == 4
    assert run_sweep(sweep, launcher).unfinished == []
    assert len(ran(tmp_path)) == 4


def test_a_submitted_job_is_found_again_and_not_submitted_twice(tmp_path, monkeypatch) -> None:
    stand_in(tmp_path, "time.sleep(3)")
    (cell,) = plan_sweep(request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,)))
    launcher = SlurmLauncher([str(tmp_path / "seg.py")], tmp_path / "jobs", {"timeout_min": 5}, cluster="local")
    first = launcher.start(cell, 0)
    monkeypatch.setattr(launcher, "_lives", lambda number: True)
    monkeypatch.setattr(launcher.executor, "submit", None)
    again = launcher.start(cell, 0)
    assert again._job.job_id == first._job.job_id
    wait_for(first.ended, 60)
    assert len(ran(tmp_path)) == 1


def test_a_job_whose_time_is_up_stops_its_run_and_is_asked_for_again(tmp_path) -> None:
    """As submitit does it: it handles a signal while the call waits, and asks for the checkpoint in the handler."""
    stand_in(tmp_path, "time.sleep(600)")
    (cell,) = plan_sweep(request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,)))
    call = Beside(watched(cell, 0, directly(cell, [str(tmp_path / "seg.py")])), cell.config.to_yaml())
    again = []

    def time_is_up(*_: object) -> None:
        again.append(call.checkpoint())
        raise SystemExit

    def tell() -> None:
        wait_for(lambda: ran(tmp_path), 60)
        os.kill(os.getpid(), signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, time_is_up)
    try:
        threading.Thread(target=tell).start()
        with pytest.raises(SystemExit):
            call()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert json.loads(with_ending(cell.notes, "json").read_text())["status"] == "stopped"
    assert list(cell.notes.parent.glob("*.claim-*")) == []
    stand_in(tmp_path)
    assert pickle.loads(pickle.dumps(again[0])).function() == 0
    assert status_of(cell, 1, "no").kind == "done"


def test_a_users_own_defaults_of_accelerate_do_not_choose_the_gpus(tmp_path, monkeypatch) -> None:
    defaults = tmp_path / "default_config.yaml"
    defaults.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: 0,1\nnum_processes: 2\n"
        "mixed_precision: fp16\nnum_machines: 1\nuse_cpu: false\n"
    )
    monkeypatch.setattr("accelerate.commands.launch.default_config_file", str(defaults))
    (cell,) = plan_sweep(request(tmp_path, methods=("random",), seeds=(0,), sparsities=(0.5,)))
    for processes in (1, 2):
        words = command(cell, ["seg.py"], processes, True, "bf16", 1)[3:]
        parser = accelerate.commands.launch.launch_command_parser()
        read_back, _, _ = accelerate.commands.launch._validate_launch_command(parser.parse_args(words))
        assert (read_back.num_processes, read_back.mixed_precision) == (processes, "bf16")
        assert (read_back.gpu_ids, bool(read_back.multi_gpu)) == ("all", processes == 2)


def test_what_slurm_cannot_do_is_said_in_a_line(tmp_path) -> None:
    assert slurm_parameters(["mem_gb=1.5", "timeout_min=60", "slurm_partition=gpu"]) == {
        **{"mem_gb": 1.5, "timeout_min": 60, "slurm_partition": "gpu"}
    }
    for key, value in (("slurm_gres", "gpu:1"), ("tasks_per_node", 4), ("slurm_gpus_per_node", 1)):
        with pytest.raises(InputError, match=f"slurm: leave {key} out"):
            SlurmLauncher(["seg.py"], tmp_path, {key: value}, cluster="local")
    with pytest.raises(InputError, match="slurm: "):
        SlurmLauncher(["seg.py"], tmp_path, {"timeout_min": "1h"}, cluster="local")
    for words, message in ((["timeout"], "KEY=VALUE"), (["=3"], "KEY=VALUE")):
        with pytest.raises(InputError, match=message):
            slurm_parameters(words)
    with pytest.raises(InputError, match=r"slurm: .*nope"):
        SlurmLauncher(["seg.py"], tmp_path, {"nope": 1}, cluster="local")
    with pytest.raises(InputError, match="gpus_per_node must be a number"):
        SlurmLauncher(["seg.py"], tmp_path, {"gpus_per_node": "many"}, cluster="local")
    with pytest.raises(InputError, match="slurm: Could not detect"):
        SlurmLauncher(["seg.py"], tmp_path, {})


def test_durations_read_like_speech() -> None:
    assert [duration(s) for s in (9.4, 99, 720, 12000, 7199)] == ["9 s", "99 s", "12 min", "3 h 20 min", "2 h 0 min"]


# The scripts, with real runs


def test_the_script_sweeps_and_reports(tmp_path) -> None:
    words = ("--methods", "random,dense", "--sparsities", "0.9", "--jobs", 2, *SMALL, "--output_dir", tmp_path / "out")
    done = script(*words, name="sweep")
    assert done.returncode == 0, done.stderr
    assert "report on 2 runs" in done.stdout
    results = json.loads((tmp_path / "out" / "random" / "0.9" / "seed0" / "results.json").read_text())
    assert results["sparsity"] == 0.9
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    again = script(*words, name="sweep")
    assert "2 runs: 2 done" in again.stdout


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
    done = script(*words, "--epochs", 1, "--batch_size", 10, "--output_dir", tmp_path / "out", name="sweep")
    assert done.returncode == 0, done.stderr
    assert "accuracy in %" in (tmp_path / "out" / "report" / "table.md").read_text()


def test_a_failed_sweep_has_a_status_of_its_own_and_still_reports(tmp_path) -> None:
    # A learning rate that makes the loss infinite, which no check can foresee.
    words = ("--methods", "dense,random", "--sparsities", "0.9", "--jobs", 2, *SMALL, "--output_dir", tmp_path / "out")
    done = script(*words, "--vary", "optimizer.head_lr=0.1,1e30", "--epochs", 2, name="sweep")
    assert done.returncode == 1, done.stderr
    assert "training diverged" in done.stdout
    assert "report on 2 runs" in done.stdout


def test_bad_input_at_the_command_line_is_one_line(tmp_path) -> None:
    done = script("--methods", "px", "--sparsities", "0.9", "--output_dir", tmp_path, "--nope", 3, name="sweep")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def evidence(*words: object) -> subprocess.CompletedProcess:
    command = ["bash", str(REPOSITORY / "scripts" / "gpu_evidence.sh"), *map(str, words)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300)


def test_the_evidence_that_a_gpu_is_asked_for_is_planned_and_checked_without_one(tmp_path) -> None:
    done = evidence("--dry_run", "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("+ python scripts/bench_px.py") == 6
    assert "nothing is not there yet: it would be composed first" in done.stdout
    # Data that is there is looked into: 16 batches of 16 images are more than these.
    done = evidence("--dry_run", "--data", make_voc(tmp_path / "data"), "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    done = evidence("--dry_run", "--rehearse", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 to do" in done.stdout
    assert not (tmp_path / "out").exists()
    done = evidence("--dri")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_evidence_is_gathered_in_chunks(tmp_path) -> None:
    words = ("--rehearse", "--out", tmp_path / "out")
    gathered = tmp_path / "out" / "evidence"
    gathered.mkdir(parents=True)
    for name in ("px_round_float32", "px_prune_float32"):
        (gathered / f"{name}.md").write_text("measured before")
    too_short = evidence(*words, "--seconds", 1)
    assert too_short.returncode == 1
    assert "takes more than a whole chunk: raise --seconds above 1" in too_short.stderr
    assert not (gathered / "criteria_cost.md").exists()

    (gathered / "criteria_cost.md").touch()
    cut = evidence(*words, "--seconds", 8)
    assert cut.returncode == 75, cut.stderr
    assert "this chunk is over: run the script again" in cut.stderr
    (gathered / "criteria_cost.md").unlink()
    done = evidence(*words, "--seconds", 280)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in gathered.iterdir()} >= {"criteria_cost.md", "table.md", "curves.png", "index.html"}
    assert (
        (gathered / "criteria_cost.md").read_text().startswith("    python scripts/bench_criteria.py cost --device cpu")
    )
    # What was there is not done again.
    assert (gathered / "px_round_float32.md").read_text() == "measured before"
