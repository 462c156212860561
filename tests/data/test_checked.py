"""Files that were found good are not decoded again."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.checking import check
from helpers.runs import go, make_voc, parsed
from PIL import Image

from px_seg import InputError
from px_seg.data import checked
from px_seg.data.checked import check_all, check_each, record_folder
from px_seg.data.class_folders import read_class_folders
from px_seg.data.synthetic import Synthetic
from px_seg.data.torchvision_sets import ArrayImages
from px_seg.data.voc import VOC
from px_seg.tasks import Classification, Segmentation, Task


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PX_SEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> Callable[[], list[str]]:
    """The names of the files that were opened as images since it was last asked, sorted."""
    names: list[str] = []
    real = Image.open

    def opening(path: Path, *given: object):
        names.append(Path(path).name)
        return real(path, *given)

    def asked() -> list[str]:
        seen = sorted(names)
        names.clear()
        return seen

    monkeypatch.setattr(Image, "open", opening)
    return asked


@pytest.fixture
def folders(tmp_path) -> Path:
    """train and val of two classes, two images each, one of them grey."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            place = tmp_path / "folders" / split / name
            place.mkdir(parents=True)
            for number in range(2):
                mode = "L" if (split, name, number) == ("train", "dog", 1) else "RGB"
                value = 50 * number + 10 * (name == "dog") + 20 * (split == "val")
                Image.new(mode, (40, 32), value).save(place / f"{number}.png")
    return tmp_path / "folders"


def of(task: type[Task], data: Path) -> Task:
    kind = "folder" if task is Classification else "voc2012"
    return task(parsed("--data.name", kind, "--data.root", data, "--data.size", 32, task=task))


def image(voc: Path, name: str) -> Path:
    return voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"


def mask(voc: Path, name: str) -> Path:
    return voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{name}.png"


def later(path: Path) -> None:
    """As if written a nanosecond later."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_a_second_check_of_masks_decodes_nothing(voc, decoded) -> None:
    assert of(Segmentation, voc).check_data() == []
    assert len(decoded()) == 2 * (8 + 4)
    assert of(Segmentation, voc).check_data() == []
    assert decoded() == []


def test_a_second_check_of_labelled_images_decodes_nothing_and_notes_the_same(folders, decoded) -> None:
    first = of(Classification, folders).check_data()
    assert len(decoded()) == 8
    assert first == [
        "1 of the training images are not RGB and are converted (1 L, such as " + str(folders / "train/dog/1.png") + ")"
    ]
    assert of(Classification, folders).check_data() == first
    assert decoded() == []


def test_some_of_the_classes_are_on_record_with_all(folders, decoded) -> None:
    for name in ("train", "val"):
        (folders / name / "eel").mkdir()
        Image.new("RGB", (40, 32)).save(folders / name / "eel" / "0.png")
    for wanted in (None, ["dog", "cat"], None):
        train, _ = read_class_folders(folders, wanted)
        check_all(train.stored, train, "images", "modes")
    assert len(decoded()) == 5


@pytest.mark.parametrize("change", ["size", "time"])
@pytest.mark.parametrize("file", [image, mask])
def test_only_a_changed_sample_is_read_again(voc, decoded, file, change: str) -> None:
    check(VOC(voc, "train"), "images")
    decoded()
    path = file(voc, "train_3")
    before = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        later(path)
    for expected in (["train_3.jpg", "train_3.png"], []):
        check(VOC(voc, "train"), "images")
        assert decoded() == expected


def test_an_image_that_is_added_is_read_and_no_other(folders, decoded) -> None:
    of(Classification, folders).check_data()
    decoded()
    Image.new("RGB", (40, 32)).save(folders / "val" / "cat" / "new.png")
    of(Classification, folders).check_data()
    assert decoded() == ["new.png"]


def test_a_file_that_is_damaged_later_is_refused_every_time(voc, decoded) -> None:
    check(VOC(voc, "train"), "images")
    decoded()
    path = image(voc, "train_3")
    path.write_bytes(path.read_bytes()[:-200])
    for _ in range(2):
        with pytest.raises(InputError, match=r"train_3.jpg is not a readable image"):
            check(VOC(voc, "train"), "images")
        assert "train_3.jpg" in decoded()


def test_a_file_that_disappears_between_listing_and_check_is_named(folders) -> None:
    train, _ = read_class_folders(folders, None)
    check_all(train.stored, train, "images", "modes")
    train.paths[1].unlink()
    with pytest.raises(InputError, match=r"cat.1\.png has gone missing"):
        check_all(train.stored, train, "images", "modes")


def test_a_refused_file_is_never_on_record_and_what_was_read_before_it_is(voc, decoded) -> None:
    path = mask(voc, "train_7")
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    for _ in range(2):
        with pytest.raises(InputError, match=r"train_7.png is not a readable image"):
            check(VOC(voc, "train"), "images")
    assert decoded().count("train_7.png") == 2
    path.write_bytes(good)
    check(VOC(voc, "train"), "images")
    assert decoded() == ["train_7.jpg", "train_7.png"]


def test_what_was_returned_is_remembered(voc) -> None:
    for path in mask(voc, "").parent.glob("val_*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    for _ in range(2):
        with pytest.raises(InputError, match="no pixel of the val images has a label"):
            check(VOC(voc, "val"), "val images")


def test_with_fewer_classes_the_masks_are_read_again(voc) -> None:
    check(VOC(voc, "train"), "images")
    (voc / "VOCdevkit" / "VOC2012" / "classes.txt").write_text("background\na\nb\n")
    with pytest.raises(InputError, match=r"train_2.png holds the label 3: labels are 0..2"):
        check(VOC(voc, "train"), "images")


def test_what_another_version_found_is_found_anew(voc, decoded, monkeypatch) -> None:
    check(VOC(voc, "train"), "images")
    decoded()
    monkeypatch.setattr(checked, "VERSION", [*checked.VERSION, "next"])
    for expected in (16, 0):
        check(VOC(voc, "train"), "images")
        assert len(decoded()) == expected


def test_two_datasets_do_not_disturb_each_other(tmp_path, decoded) -> None:
    one, other = make_voc(tmp_path / "one"), make_voc(tmp_path / "other")
    for root in (one, other, one, other):
        check(VOC(root, "train"), "images")
        check(VOC(root, "val"), "images")
    assert len(decoded()) == 2 * 2 * 12
    path = image(other, "train_0")
    path.write_bytes(b"")
    check(VOC(one, "train"), "images")
    with pytest.raises(InputError, match=str(path)):
        check(VOC(other, "train"), "images")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-40],
        lambda content: content.replace(b"[255, 30", b"[255, 31", 1),
        lambda content: content.split(b"\n")[1],
        lambda content: bytes(range(256)),
    ],
    ids=["empty", "torn", "altered", "headless", "noise"],
)
def test_a_damaged_record_is_none_and_is_replaced(voc, cache, decoded, damage) -> None:
    check(VOC(voc, "train"), "images")
    (record,) = cache.iterdir()
    content = record.read_bytes()
    record.write_bytes(damage(content))
    assert record.read_bytes() != content
    decoded()
    for expected in (16, 0):
        assert check(VOC(voc, "train"), "images") == []
        assert len(decoded()) == expected
    assert record.read_bytes() == content


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_a_record_that_cannot_be_written_is_told_in_one_line(voc, cache, monkeypatch, obstacle: str) -> None:
    """A file where the cache folder would be; a folder where the record would be."""
    if obstacle == "file":
        cache.write_text("not a folder")
    else:
        check(VOC(voc, "train"), "images")
        (record,) = cache.iterdir()
        record.unlink()
        record.mkdir()
    (note,) = of(Segmentation, voc).check_data()
    assert str(cache) in note
    assert "PX_SEG_CACHE" in note
    assert "\n" not in note
    assert of(Segmentation, voc).check_data() == [note]
    assert obstacle == "file" or [path.name for path in cache.iterdir()] == [record.name], "nothing left aside"


def test_an_unwritable_cache_folder_does_not_stop_a_run(folders, tmp_path, cache, capsys) -> None:
    cache.write_text("not a folder")
    small = ("--data.name", "folder", "--data.root", folders, "--data.size", 32, "--data.workers", 0)
    small += ("--weights", "none", "--encoder", "resnet20", "--method", "random", "--epochs", 1, "--batch_size", 2)
    assert "accuracy" in go(*small, "--output_dir", tmp_path / "out", task=Classification)
    assert capsys.readouterr().out.count("the record of checked files cannot be written") == 1


def test_a_user_without_a_home_is_told(voc, monkeypatch) -> None:
    monkeypatch.setattr(checked, "record_folder", lambda: None)
    (note,) = of(Segmentation, voc).check_data()
    assert "no home folder" in note


def test_a_full_disk_leaves_the_former_record(voc, cache, decoded, monkeypatch) -> None:
    check(VOC(voc, "train"), "images")
    (record,) = cache.iterdir()
    content = record.read_bytes()
    later(image(voc, "train_3"))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        (note,) = check(VOC(voc, "train"), "images")
    assert "No space left on device" in note
    assert {path: path.read_bytes() for path in cache.iterdir()} == {record: content}


def test_runs_at_the_same_time_leave_a_whole_record(voc, cache) -> None:
    """Eight at a time write two splits' samples into one record; whoever reads it finds one of them whole."""
    check(VOC(voc, "train"), "images")
    (record,) = cache.iterdir()

    def at_once(number: int) -> bytes:
        later(image(voc, f"{'val' if number % 2 else 'train'}_{number % 4}"))
        check(VOC(voc, "val" if number % 2 else "train"), "images")
        return record.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(at_once, range(40)))
    for content in seen:
        digest, body = content.split(b"\n")
        assert checked.sha256(body).hexdigest().encode() == digest
    assert list(cache.iterdir()) == [record]


def test_data_in_memory_is_read_every_time_and_leaves_no_record(cache) -> None:
    arrays = ArrayImages(np.zeros((3, 32, 32, 3), np.uint8), [0, 1, 1], ["a", "b"], None, "here")
    for data in (arrays, Synthetic("train", 5)):
        assert data.files(0) == ()
        reads = []
        for _ in range(2):
            found = check_all(lambda index, reads=reads: bool(reads.append(index)), data, "images", "any")
            assert found == (dict.fromkeys(range(len(data)), False), {}, [])
        assert len(reads) == 2 * len(data)
    assert not cache.exists()


def test_the_cache_folder_is_the_variables_then_the_users(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PX_SEG_CACHE", str(tmp_path / "own"))
    assert record_folder() == tmp_path / "own"
    monkeypatch.setenv("PX_SEG_CACHE", "~/own")
    assert record_folder() == tmp_path / "home" / "own"
    monkeypatch.delenv("PX_SEG_CACHE")
    assert record_folder() == tmp_path / "xdg" / "px_seg"
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert record_folder() == tmp_path / "home" / ".cache" / "px_seg"


def test_nobody_has_no_home(monkeypatch) -> None:
    monkeypatch.delenv("PX_SEG_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert record_folder() is None


def test_after_a_fault_a_run_reads_no_more(voc, monkeypatch) -> None:
    """But for what is being read already."""
    data = VOC(voc, "train")
    monkeypatch.setattr(VOC, "__len__", lambda self: 400)
    monkeypatch.setattr(VOC, "files", lambda self, index: ())
    reads = []

    def read(index: int) -> int:
        reads.append(index)
        if index == 3:
            raise InputError("it is damaged")
        # As long as a small file takes: in no time all are read before the first is looked at.
        time.sleep(0.001)
        return index

    with pytest.raises(InputError, match="it is damaged"):
        check_all(read, data, "images", "any")
    assert len(reads) < 200
    reads.clear()
    found = check_each(read, data, "images", "any")
    assert (len(reads), len(found.values), list(found.faults)) == (400, 399, [3])
