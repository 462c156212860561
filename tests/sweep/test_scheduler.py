"""Sweeps carried out: what is run and what is not, and what survives being stopped; runs are stand-ins."""

import json
import signal
from collections import Counter

import pytest
from helpers.sweeps import SMALL, Forked, names, ran, request, stand_in
from helpers.waiting import grow_old, wait_for

from px_seg import InputError
from px_seg.run.folder import RunFolder
from px_seg.sweep import plan_sweep, run_sweep
from px_seg.sweep.claimed_run import Claim
from px_seg.sweep.launchers import LocalLauncher
from px_seg.sweep.status import status_of


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


def test_runs_of_other_data_are_not_added_to_those_that_are_finished(tmp_path) -> None:
    launcher, out = stand_in(tmp_path), tmp_path / "out"
    run_sweep(request(out, methods=("random",), seeds=(0,)), launcher)
    for results in out.glob("random/*/seed0/results.json"):
        about = {"data": {"root": "there"}, "data_fingerprint": "another"}
        results.write_text(json.dumps(json.loads(results.read_text()) | about))
    with pytest.raises(InputError, match=r"the run in .*seed0 had other data, then at there: files differ in names"):
        run_sweep(request(out, methods=("random",)), launcher)
    with pytest.raises(InputError, match="had other data, then at there"):
        run_sweep(request(out, methods=("random", "px+ranking=erk"), seeds=(0,)), launcher)
    assert len(ran(tmp_path)) == 2
    for results in out.glob("random/*/seed0/results.json"):
        results.write_text(json.dumps(json.loads(results.read_text()) | {"data": None}))
    with pytest.raises(InputError, match="had other data, then at a place that it does not name"):
        run_sweep(request(out, methods=("random",)), launcher)
    # With nothing left to run no data is looked at.
    run_sweep(request(out, methods=("random",), seeds=(0,)), launcher)


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


def test_sweeps_at_once_in_one_folder_do_no_run_twice(tmp_path) -> None:
    stand_in(tmp_path, "time.sleep(0.5)")
    sweeps = [Forked(tmp_path) for _ in range(3)]
    said = [sweep.said_at_its_end() for sweep in sweeps]
    assert [sweep.status for sweep in sweeps] == [0, 0, 0], said
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert all("10 of 10: " in text or "10 done" in text for text in said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_told_to_end_ends_its_runs_and_goes_on_when_asked_again(tmp_path, number) -> None:
    stand_in(tmp_path, "time.sleep(600)")
    sweep = Forked(tmp_path)
    wait_for(lambda: len(ran(tmp_path)) == 2, 60)
    sweep.send_signal(number)
    said = sweep.said_at_its_end()
    assert (sweep.status, said.splitlines()[-1]) == (130, "interrupted")
    notes = tmp_path / "out" / "sweep"
    assert list(notes.rglob("*.claim-*")) == []
    assert [json.loads(file.read_text())["status"] for file in notes.rglob("seed*.json")] == ["stopped"] * 2

    assert run_sweep(request(tmp_path / "out"), stand_in(tmp_path)).unfinished == []
    counts = Counter(ran(tmp_path))
    assert len(counts) == 10
    assert sorted(counts.values()) == [1] * 8 + [2] * 2


STOPS_ONCE = """
if config["method"] == "px" and not (folder / "told").exists():
    (folder / "told").touch()
    if config["seed"]:
        (folder / "stopped.json").write_text("{}")
        sys.exit(1)
    sys.exit(143)
"""
"""A run that is told to end the first time; with seed 1, under a launcher that swallows its status."""


def test_a_run_that_is_told_to_end_from_outside_is_continued(tmp_path, capsys) -> None:
    sweep = request(tmp_path / "out", methods=("px",), sparsities=(0.9,))
    assert run_sweep(sweep, stand_in(tmp_path, STOPS_ONCE)).unfinished == []
    assert Counter(ran(tmp_path)) == {"seed0 px 0.9": 2, "seed1 px 0.9": 2}
    said = capsys.readouterr().out
    assert all(f"px 90.00% seed {seed} was stopped from outside: it is continued" in said for seed in (0, 1))


def test_a_run_that_another_process_carries_out_is_waited_for(tmp_path, monkeypatch) -> None:
    """Its folder is locked, though nobody claims it: the process beside it may have been killed."""
    monkeypatch.setattr("px_seg.sweep.scheduler.LOOK_ELSEWHERE", 0.5)
    taken = """
if config["method"] == "px" and not (folder / "told").exists():
    (folder / "told").touch()
    sys.exit(75)
"""
    sweep = request(tmp_path / "out", methods=("px", "random"), seeds=(0,), sparsities=(0.9,))
    assert run_sweep(sweep, stand_in(tmp_path, taken)).unfinished == []
    assert Counter(ran(tmp_path)) == {"seed0 px 0.9": 2, "seed0 random 0.9": 1}


def test_a_run_that_fails_after_it_was_stopped_has_failed(tmp_path) -> None:
    """What it left when it was told to end says nothing of what came after."""
    sweep = request(tmp_path / "out", methods=("px",), sparsities=(0.9,))
    body = STOPS_ONCE + "if config['method'] == 'px': sys.exit('error: no luck')"
    launcher = stand_in(tmp_path, body)
    assert len(run_sweep(sweep, launcher).unfinished) == 2
    assert Counter(ran(tmp_path)) == {"seed0 px 0.9": 2, "seed1 px 0.9": 2}


@pytest.mark.slow
def test_the_runs_of_a_killed_sweep_go_on_and_the_next_waits_for_them(tmp_path, capsys) -> None:
    stand_in(tmp_path, "time.sleep(3 if config['method'] == 'px' and not config['seed'] else 0)")
    sweep = Forked(tmp_path)
    wait_for(lambda: len(ran(tmp_path)) == 2, 60)
    sweep.send_signal(signal.SIGKILL)
    sweep.said_at_its_end()
    run_sweep(request(tmp_path / "out"), LocalLauncher([str(tmp_path / "seg.py")], jobs=2, gpus=()))
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert "2 running" in capsys.readouterr().out


@pytest.mark.slow
def test_sweeps_at_once_do_not_try_anew_what_failed_for_one_of_them(tmp_path) -> None:
    stand_in(tmp_path, "time.sleep(1)\nif config['method'] == 'px': sys.exit('error: no luck')")
    sweeps = [Forked(tmp_path) for _ in range(2)]
    said = [sweep.said_at_its_end() for sweep in sweeps]
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 10
    assert all(text.count("not finished: px") == 4 for text in said), said


def test_a_run_that_was_stopped_goes_on_in_the_launch_it_had(tmp_path) -> None:
    sweep = request(tmp_path / "out", methods=("random",), seeds=(0,), sparsities=(0.9,))
    (cell,) = plan_sweep(sweep)
    RunFolder(cell.folder).open(cell.config, {"processes": 2, "mixed_precision": "no"}, "any")
    with pytest.raises(InputError, match="was launched with processes 2, not 1"):
        run_sweep(sweep, stand_in(tmp_path))
    assert ran(tmp_path) == []


def test_a_folder_that_cannot_be_is_said_in_a_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file is a file, not a folder"):
            run_sweep(request(folder, methods=("random",)), stand_in(tmp_path), dry_run=True)


def test_the_folder_of_a_run_is_none_for_a_sweep(tmp_path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="is the folder of a run: give the sweep one of its own"):
        run_sweep(request(tmp_path), stand_in(tmp_path / "launcher"), dry_run=True)


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
