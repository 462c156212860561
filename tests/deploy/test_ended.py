"""Commands that are told to end, or killed, in the middle of their work."""

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.pictures import picture
from helpers.runs import TESTS, started

from px_seg.commands import main


def ended(name: str, part: str, *words: object) -> CompletedProcess:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return started("-m", "helpers.ended", name, part, *words, PYTHONPATH=path)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "said"), [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "interr")]
)
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("model.onnx", ("export", "RUN", "--format", "onnx", "--no_evaluation")),
        ("latency.json", ("latency", "RUN", "--repeats", "3", "--save")),
        ("picture.overlay", ("predict", "RUN", "PICTURE", "--out", "OUT")),
    ],
)
def test_a_command_that_is_told_to_end_says_so_and_leaves_no_half_file(
    finished: Path, tmp_path: Path, name: str, status: int, said: str, part: str, words: tuple[str, ...]
) -> None:
    image = picture(tmp_path / "picture.jpg")
    places = {"RUN": finished, "PICTURE": image, "OUT": tmp_path / "out"}
    before = files(finished)
    done = ended(name, part, *(places.get(word, word) for word in words))
    assert done.returncode == status, done.stderr
    assert done.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in done.stderr
    assert files(finished) == before
    assert not list(tmp_path.rglob(".new-*"))
    assert not list(tmp_path.rglob("*.new"))
    # Labels that were whole by then stay.
    more = ["--resume"] if words[0] == "predict" else []
    again = started("-m", "px_seg", *(places.get(word, word) for word in words), *more)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_an_export_that_was_killed_is_done_again_whole(finished: Path, tmp_path: Path) -> None:
    """What it left goes, and what was there is there until then."""
    words = ("export", str(finished), "--format", "onnx", "--no_evaluation")
    held = json.loads((finished / "export" / "export.json").read_text())["files"]
    assert ended("SIGKILL", "model.onnx", *words).returncode == -9
    (left,) = (finished / "export").glob(".new-*")
    assert left.is_dir()
    assert json.loads((finished / "export" / "export.json").read_text())["files"] == held
    theirs = [finished / "export" / ".new-thesis" / "notes.txt", finished / "export" / ".new-file"]
    theirs[0].parent.mkdir()
    for file in theirs:
        file.touch()
    main(list(words))
    assert sorted((finished / "export").glob(".new-*")) == [theirs[1], theirs[0].parent]
    assert theirs[0].exists()
    assert json.loads((finished / "export" / "export.json").read_text())["files"].keys() == held.keys()
