"""What is known of a run before a sweep goes on."""

import json

import pytest
from helpers.sweeps import request, stand_in

from px_seg import InputError
from px_seg.sweep import plan_sweep, run_sweep
from px_seg.sweep.claimed_run import Claim, with_ending
from px_seg.sweep.status import duration, status_of


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
    for text in ("null", "[]", "{", '{"launch": 1, "data": "any"}', '{"launch": {}}'):
        (cell.folder / "begun.json").write_text(text)
        with pytest.raises(
            InputError, match=r"begun\.json is damaged, so nothing says that the data is still the same"
        ):
            status_of(cell, 1, "no")


def test_durations_read_like_speech() -> None:
    assert [duration(s) for s in (9.4, 99, 720, 12000, 7199)] == ["9 s", "99 s", "12 min", "3 h 20 min", "2 h 0 min"]
