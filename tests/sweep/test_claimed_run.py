"""Claims on runs, and the process that stays beside one; runs are stand-ins of the standard library."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.waiting import alive, grow_old, wait_for

from px_seg.sweep import claimed_run
from px_seg.sweep.claimed_run import EXPIRES, Claim, age, carry_out, holder, last_words, outcome, with_ending


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    place = tmp_path / "sweep" / "px" / "0.9313" / "seed0"
    place.parent.mkdir(parents=True)
    return place


def beside(notes: Path, folder: Path, code: str, *words: object) -> subprocess.Popen:
    """The process beside a run that is a line of Python."""
    run = [sys.executable, "-c", code, *map(str, words)]
    command = [sys.executable, "-P", claimed_run.__file__, str(notes), str(folder), "0", *run]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def once(notes: Path, folder: Path, code: str, *words: object, attempts: int = 0) -> int:
    """The exit status of a run that is a line of Python, carried out in this process."""
    return carry_out(notes, folder, attempts, [sys.executable, "-c", code, *map(str, words)], "epochs: 3")


FINISH = (
    "import sys, pathlib; folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True)\n"
    "(folder / 'results.json').write_text('{}')"
)


def test_a_claim_is_one_processs_until_it_expires(notes) -> None:
    first = Claim.take(notes)
    assert first.renew()
    assert Claim.take(notes) is None
    assert holder(notes).process == os.getpid()

    grow_old(first.path)
    assert holder(notes) is None
    second = Claim.take(notes)
    assert second is not None
    # Who comes back after its claim expired learns that the run is another's, and leaves that one's claim alone.
    assert not first.renew()
    first.release()
    assert second.renew()
    assert Claim.take(notes) is None

    second.release()
    assert list(notes.parent.iterdir()) == []
    third = Claim.take(notes)
    assert not second.renew()
    assert third.renew()


def test_a_claim_of_a_name_with_a_dot_is_not_its_neighbours(tmp_path) -> None:
    assert Claim.take(tmp_path / "seed1") is not None
    assert Claim.take(tmp_path / "seed1.5") is not None
    assert Claim.take(tmp_path / "seed11") is not None
    assert Claim.take(tmp_path / "seed1") is None


@pytest.mark.parametrize("expired", [False, True])
def test_of_many_who_ask_at_once_one_gets_the_claim(notes, tmp_path, expired) -> None:
    if expired:
        grow_old(Claim.take(notes).path)
    # Each goes on from what it saw only when all have seen the same.
    code = (
        "import os, sys, pathlib; sys.path.insert(0, sys.argv[1]); import claimed_run\n"
        "look, ready = claimed_run._last, pathlib.Path(sys.argv[3])\n"
        "def look_and_wait(notes):\n"
        "    found = look(notes)\n"
        "    (ready / str(os.getpid())).touch()\n"
        "    sys.stdin.read()\n"
        "    return found\n"
        "claimed_run._last = look_and_wait\n"
        "print(claimed_run.Claim.take(pathlib.Path(sys.argv[2])) is not None)"
    )
    ready = tmp_path / "ready"
    ready.mkdir()
    words = [sys.executable, "-c", code, str(Path(claimed_run.__file__).parent), str(notes), str(ready)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen(words, text=True, **pipes) for _ in range(8)]
    wait_for(lambda: len(list(ready.iterdir())) == 8)
    for racer in racers:
        racer.stdin.close()
        racer.stdin = None
    assert sorted(racer.communicate(timeout=60)[0].strip() for racer in racers) == ["False"] * 7 + ["True"]


def test_age_is_by_the_clock_of_the_file_system(notes, monkeypatch) -> None:
    claim = Claim.take(notes)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert 0 <= age(claim.path) < 60


def test_a_run_that_ends_well_is_done_and_one_without_results_is_not(notes, tmp_path) -> None:
    folder = tmp_path / "px" / "0.9313" / "seed0"
    assert once(notes, folder, FINISH, folder) == 0
    assert with_ending(notes, "yaml").read_text() == "epochs: 3"
    assert outcome(notes)["status"] == "done"
    assert holder(notes) is None
    # Once there are results nothing is run.
    assert carry_out(notes, folder, 0, ["there is no such command"], "") == 0

    other = notes.with_name("seed1")
    assert once(other, tmp_path / "other", "") == 1
    assert outcome(other)["error"] == "it ended without results.json"


def test_a_run_that_fails_leaves_its_log_and_its_reason(notes, tmp_path) -> None:
    code = "import sys; print('epoch 1'); print('\\rbar\\rerror: the disc is full', file=sys.stderr); sys.exit(2)"
    assert once(notes, tmp_path / "run", code) == 2
    assert outcome(notes) | {"seconds": 0, "host": ""} == {
        **{"status": "failed", "seconds": 0, "host": "", "attempts": 1},
        "error": "the disc is full",
    }
    # Who did not know that it has failed does not try it again; who knows may.
    assert once(notes, tmp_path / "run", code) == 1
    assert with_ending(notes, "log").read_text().count("=== ") == 1
    once(notes, tmp_path / "run", "raise RuntimeError('worse')", attempts=1)
    log = with_ending(notes, "log").read_text()
    assert log.count("=== ") == 2
    assert "epoch 1" in log
    # Of an error that is a defect, the traceback's last line.
    assert last_words(with_ending(notes, "log")) == "RuntimeError: worse"


def test_a_run_that_was_begun_is_resumed(notes, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    once(notes, folder, "import sys; sys.exit(' '.join(sys.argv))")
    assert outcome(notes)["error"] == "-c --resume"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_end_it_ends_the_run_and_what_that_started(notes, tmp_path, number) -> None:
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid)); time.sleep(600)"
    )
    process = beside(notes, tmp_path / "run", code, tmp_path / "child")
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    process.send_signal(number)
    assert process.wait(60) == claimed_run.STOPPED
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not alive(child))
    assert outcome(notes)["status"] == "stopped"
    assert holder(notes) is None


def test_a_run_whose_claim_was_taken_over_ends(notes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(claimed_run, "BEAT", 0.0)
    taker = (
        f"import os, sys, json, pathlib; sys.path.insert(0, {str(Path(claimed_run.__file__).parent)!r})\n"
        "import claimed_run, time\n"
        f"notes = pathlib.Path({str(notes)!r}); claim = next(notes.parent.glob('seed0.claim-*'))\n"
        f"os.utime(claim, (0, 0)); assert claimed_run.Claim.take(notes) is not None; time.sleep(600)"
    )
    assert once(notes, tmp_path / "run", taker) == claimed_run.TAKEN
    # The claim that is in force is left to its holder, and nothing is said of how the run ended.
    assert holder(notes) is not None
    assert outcome(notes) == {}


def test_seconds_add_up_over_attempts(notes, tmp_path) -> None:
    with_ending(notes, "json").write_text(json.dumps({"status": "stopped", "seconds": 1000.0, "attempts": 1}))
    # Long enough to show: what an attempt took is noted in tenths of a second.
    once(notes, tmp_path / "run", f"import time; time.sleep(0.3); {FINISH}", tmp_path / "run")
    assert 1000 < outcome(notes)["seconds"] < 1060


WAIT = "import os, sys, time, pathlib; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
"""A run that says which process it is."""


def process_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_a_run_that_a_signal_ends_together_with_the_process_beside_it_has_not_failed(notes, tmp_path) -> None:
    """As a shutdown does, or scancel: everything is told at once, and the run ends first."""
    process = beside(notes, tmp_path / "run", WAIT, tmp_path / "run_id")
    os.kill(process_in(tmp_path / "run_id"), signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == claimed_run.STOPPED
    assert outcome(notes)["status"] == "stopped"


def test_an_error_beside_a_run_does_not_leave_it_alone(notes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(claimed_run, "BEAT", 0.0)

    def broken(claim: Claim) -> bool:
        process_in(tmp_path / "run_id")
        raise MemoryError

    renew = Claim.renew
    monkeypatch.setattr(Claim, "renew", broken)
    monkeypatch.setattr(Claim, "release", lambda claim: renew(claim))
    with pytest.raises(MemoryError):
        once(notes, tmp_path / "run", WAIT, tmp_path / "run_id")
    assert not alive(process_in(tmp_path / "run_id"))


def test_a_file_system_that_does_not_answer_is_given_until_the_claim_expires(notes, monkeypatch) -> None:
    claim = Claim.take(notes)

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "utime", stale)
    assert claim.renew()
    claim.renewed -= EXPIRES
    assert not claim.renew()


def test_a_claim_that_counts_anew_below_an_expired_one_is_in_force(notes, monkeypatch) -> None:
    """Seen expired, then released, and taken by a third before the next number is: both must not hold the run."""
    grow_old(Claim.take(notes).path)
    real, thirds = claimed_run._in_force, []

    def slow(path: Path) -> bool:
        found = real(path)
        if not thirds:
            thirds.append(None)
            path.unlink()
            thirds[0] = Claim.take(notes)
        return found

    monkeypatch.setattr(claimed_run, "_in_force", slow)
    assert Claim.take(notes) is None
    assert thirds[0].renew()


def test_a_run_is_left_behind_when_its_sweep_is_no_more(notes) -> None:
    Claim.take(notes)
    assert not holder(notes).left_behind()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert holder(notes)._replace(sweep=ended.pid).left_behind()
    assert not holder(notes)._replace(sweep=ended.pid, host="elsewhere").left_behind()


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"status": "failed"}', '{"status": "done", "seconds": "x"}'])
def test_a_damaged_outcome_is_a_failure_that_names_it(notes, text) -> None:
    with_ending(notes, "json").write_text(text)
    assert outcome(notes) | {"error": ""} == {"status": "failed", "attempts": 0, "seconds": 0.0, "error": ""}
    assert "seed0.json is damaged" in outcome(notes)["error"]


def test_files_that_are_no_claims_are_left_alone(notes) -> None:
    notes.with_name("seed0.claim-1x").touch()
    assert holder(notes) is None
    notes.with_name("seed0.claim-1").write_text("{}")
    assert holder(notes).host == "another process"
    assert Claim.take(notes) is None
