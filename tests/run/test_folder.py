"""The folder of a run, and what is in it already."""

import json

import pytest
from helpers.runs import go

from px_seg import InputError


def test_a_folder_that_holds_something_is_not_touched(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    flags = ("--config", tiny, "--epochs", 0, "--method", "random", "--output_dir", out)
    go(*flags)
    (out / "notes.txt").write_text("mine")
    (out / "mine.png").write_text("mine")
    before = (out / "results.json").read_text()
    with pytest.raises(InputError, match=r"already holds a run.*--overwrite"):
        go(*flags)
    # Everything else is checked before anything is deleted.
    with pytest.raises(InputError, match="there is no file"):
        go(*flags, "--overwrite", "--weights", "nowhere.pth")
    assert (out / "results.json").read_text() == before
    go(*flags, "--overwrite", "--seed", 1)
    assert json.loads((out / "results.json").read_text())["seed"] == 1
    assert (out / "notes.txt").read_text() == (out / "mine.png").read_text() == "mine"
    with pytest.raises(InputError, match="there is no run"):
        go(*flags[:-1], tmp_path / "new", "--resume")
    with pytest.raises(InputError, match="do not belong to a run"):
        go(*flags[:-1], tmp_path)
