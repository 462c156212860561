"""The folder of the photo dataset, made whole or not at all."""

from pathlib import Path

import pytest

from px_seg import InputError
from px_seg.data import photo_folder
from px_seg.data.class_folders import read_class_folders
from px_seg.data.photo_folder import Request, make_photo_folder
from px_seg.data.voc import VOC


@pytest.fixture
def asked(folders: tuple[Path, Path]) -> Request:
    stamps, backgrounds = folders
    return Request(train=4, val=3, size=64, objects=5, seed=0, stamps=stamps, backgrounds=backgrounds)


def test_all_that_is_asked_for_is_there(asked: Request, tmp_path: Path) -> None:
    out = tmp_path / "new" / "photo"
    make_photo_folder(out, asked)
    assert {path.name for path in out.iterdir()} == {"VOCdevkit", "objects"}
    assert {split: len(VOC(out, split)) for split in asked.counts} == {"train": 4, "val": 3, "val_seen": 3}
    # A quarter of the images of every class, rounded up.
    assert [len(part) for part in read_class_folders(out / "objects", None)] == [5 * 20, 2 * 20]
    make_photo_folder(tmp_path / "other", asked._replace(objects=0))
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"VOCdevkit"}


def test_what_is_interrupted_leaves_nothing_and_what_was_there_stays(asked, tmp_path, monkeypatch) -> None:
    out = tmp_path / "photo"
    out.mkdir()
    (out / "notes.txt").write_text("mine")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(photo_folder, "build_objects", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_photo_folder(out, asked)
    assert {path.name for path in out.iterdir()} == {"notes.txt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"train": 0}, "take at least 1 image"),
        ({"val": 0}, "take at least 1 image"),
        ({"size": 63}, "--size at least 64 pixels"),
        ({"objects": -1}, "--objects must be at least 0, got -1"),
        ({"stamps": None}, "give both --stamps and --backgrounds, or neither"),
        ({"backgrounds": Path("nowhere")}, "--backgrounds nowhere is not a folder"),
    ],
)
def test_what_cannot_be_composed_is_refused(asked: Request, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_photo_folder(tmp_path / "photo", asked._replace(**changes))
    assert not (tmp_path / "photo").exists()


def test_a_place_that_is_taken_or_cannot_be_written_is_refused(asked: Request, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in ("VOCdevkit", "objects"):
        (tmp_path / name / name).mkdir(parents=True)
    for out, message in (
        ("file", "file is a file, not a folder"),
        ("file/below", "nothing can be written to .*: Not a directory"),
        ("VOCdevkit", "already holds a VOCdevkit: choose another folder"),
        ("objects", "already holds objects: choose another folder"),
    ):
        with pytest.raises(InputError, match=message):
            make_photo_folder(tmp_path / out, asked)
    assert (tmp_path / "file").read_text() == "mine"
