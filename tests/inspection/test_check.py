"""`px_seg check`: all that is wrong at once, what a dataset consists of, and a record that runs go by."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import parsed
from PIL import Image

from px_seg import InputError
from px_seg.commands import main
from px_seg.data.class_folders import ImageFiles
from px_seg.data.images import stored
from px_seg.data.loaders import check_fills
from px_seg.data.mask_folders import read_mask_folders
from px_seg.data.survey import survey_images, survey_masks, too_dim
from px_seg.inspection.findings import inspect
from px_seg.inspection.recognition import recognised
from px_seg.tasks import Classification, Segmentation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("PX_SEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of noise in growing sizes, with masks of 0 and 255."""
    place = tmp_path / "mine"
    for name in ("images", "masks"):
        (place / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        width = 40 + 2 * number
        Image.fromarray(rng.integers(0, 256, (40, width, 3), np.uint8)).save(place / "images" / f"{number}.png")
        mask = np.zeros((40, width), np.uint8)
        mask[:10, :20] = 255
        Image.fromarray(mask).save(place / "masks" / f"{number}.png")
    (place / "classes.txt").write_text("background,0\nobject,255\n")
    return place


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, capsys) -> Run:
    """The exit status of a check, and what it said."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["check", *map(str, words), "--output_dir", str(tmp_path / "out")])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return run


def test_a_good_folder_is_described_and_its_flags_are_said(folder, check, tmp_path) -> None:
    status, said = check(folder, "--data.val_share", 0.25)
    assert status == 0
    assert "note: masks hold values: 0 background, 255 object" in said
    assert f"px_seg seg --data.name folders --data.images {folder}/images --data.masks {folder}/masks" in said
    assert "--data.val_share 0.25\n" in said
    rows = list(csv.reader((tmp_path / "out" / "classes.csv").open()))
    assert [row[0] for row in rows] == ["class", "background", "object"]
    assert [row[1::2] for row in rows[1:]] == [["9", "3"], ["9", "3"]]
    data = read_mask_folders(
        *(str(folder / name) for name in ("images", "masks", "classes.txt")), ("train", "val"), 0.25, 0
    )
    for place, part in zip((2, 4), data, strict=True):
        share = np.mean(np.concatenate([part[index].mask.ravel() for index in range(len(part))]) == 1)
        assert float(rows[2][place].rstrip("%")) == pytest.approx(100 * share, abs=6e-4)
    assert Image.open(tmp_path / "out" / "samples.png").width > 1000
    assert not (tmp_path / "out" / "faults.txt").exists()


def test_all_faults_are_listed_at_once_and_the_rest_is_on_record(folder, check, tmp_path, monkeypatch) -> None:
    (folder / "images" / "1.png").write_bytes(b"no image")
    (folder / "masks" / "2.png").unlink()
    Image.new("L", (9, 9)).save(folder / "masks" / "3.png")
    stray = np.array(Image.open(folder / "masks" / "4.png"))
    stray[-1, -1] = 7
    Image.fromarray(stray).save(folder / "masks" / "4.png")
    shutil.copy(folder / "images" / "5.png", folder / "images" / "6.png")
    shutil.copy(folder / "masks" / "5.png", folder / "masks" / "6.png")
    status, said = check(folder)
    assert status == 1
    listed = (tmp_path / "out" / "faults.txt").read_text().splitlines()
    assert len(listed) == 4
    for start, file, what in zip(
        ("", "images", "masks", "masks"),
        ("2.png", "1.png", "3.png", "4.png"),
        ("has no mask in", "is not a readable image", "is 9x9 pixels, but its image", "holds 7, which"),
        strict=True,
    ):
        (line,) = (line for line in listed if what in line)
        assert str(Path(start, file)) in line
        assert f"wrong: {line}" in said
    assert "show the same as another of them" in said or "are training images as well" in said
    assert "nothing is wrong" not in said

    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *more: opened.append(Path(path).name) or real(path, *more))
    flags = ("--data.name", "folders", "--data.images", folder / "images", "--data.masks", folder / "masks")
    config = parsed(*flags, "--data.classes", folder / "classes.txt", "--data.size", 32)
    found = inspect(Segmentation, config, Segmentation.parts(config))
    assert set(opened) == {"1.png", "3.png", "4.png"}
    assert len(found.faults) == 4
    with pytest.raises(InputError, match=r"2.png has no mask"):
        Segmentation(config)


def test_a_run_after_a_check_decodes_nothing(folder, check, monkeypatch) -> None:
    assert check(folder)[0] == 0
    config = parsed(
        *("--data.name", "folders", "--data.images", folder / "images", "--data.masks", folder / "masks"),
        *("--data.classes", folder / "classes.txt", "--data.size", 32),
    )
    task = Segmentation(config)
    monkeypatch.setattr(Image, "open", None)
    assert task.check_data() == ["masks hold values: 0 background, 255 object"]


def test_what_is_wrong_with_all_masks_together_is_a_fault(folder, check) -> None:
    (folder / "classes.txt").write_text("background\nobject\n")
    status, said = check(folder)
    assert status == 1
    assert said.count("wrong: all labelled pixels of the") == 2
    assert "255 void" in said


def test_images_in_both_parts_are_known_by_what_they_show(folder, check) -> None:
    """In another format, under another name."""
    for split, numbers in (("train", range(6)), ("val", range(6, 12))):
        for name in ("images", "masks"):
            (folder / name / split).mkdir()
            for number in numbers:
                (folder / name / f"{number}.png").rename(folder / name / split / f"{number}.png")
    Image.open(folder / "images" / "train" / "2.png").save(folder / "images" / "val" / "copy.bmp")
    shutil.copy(folder / "masks" / "train" / "2.png", folder / "masks" / "val" / "copy.png")
    status, said = check(folder)
    assert status == 0
    assert "1 of the 7 validation images are training images as well, such as " in said
    assert "copy.bmp" in said


def test_folders_of_classes_are_known_and_counted(tmp_path, check) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (300, 400, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{number}.jpg")
    (tmp_path / "pets" / "val" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8")
    status, said = check(tmp_path / "pets")
    assert status == 1
    assert "wrong: " + str(tmp_path / "pets" / "val" / "dog" / "broken.jpg") in said
    assert list(csv.reader((tmp_path / "out" / "classes.csv").open())) == [
        ["class", "training images", "validation images"],
        ["cat", "4", "2"],
        ["dog", "4", "2"],
    ]
    # The size of the file, not of what was decoded of it.
    assert said.count("400x300") == 6
    (tmp_path / "pets" / "val" / "dog" / "broken.jpg").unlink()
    status, said = check(tmp_path / "pets")
    assert status == 0
    assert f"train with px_seg cls --data.name folder --data.root {tmp_path}/pets" in said


def test_a_name_that_begins_with_a_dash_is_a_folder(folder, check, monkeypatch) -> None:
    folder.rename(folder.with_name("-odd"))
    monkeypatch.chdir(folder.parent)
    status, said = check("./-odd")
    assert status == 0
    assert "nothing is wrong" in said


def test_voc_trees_are_known_by_their_folders(voc) -> None:
    for place in (voc, voc / "VOCdevkit", voc / "VOCdevkit" / "VOC2012"):
        found = recognised(place)
        assert (found.task, found.flags[:2]) == (Segmentation, ("--data.name", "voc2012"))


def test_images_and_masks_within_train_and_val_are_no_classes(folder, check) -> None:
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (folder / "other" / split).mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder / name, folder / "other" / split / name)
    status, said = check(folder / "other")
    assert status == 2
    assert "has images and masks in train and in val: move them to images/train, images/val" in said


def test_the_flags_that_few_images_need_are_said(voc, check) -> None:
    """A run with them is not refused before it reads weights."""
    status, said = check(voc)
    assert status == 0
    words = said[said.index("--data.name") :].splitlines()[0].split()
    assert words[4:] == ["--pruning.batches", "1", "--pruning.batch_size", "4"]
    config = parsed(*words)
    task = Segmentation(config)
    assert len(task.pruning_draw()) == 1
    check_fills(len(task.train), config.batch_size, 1)


def test_many_faults_and_classes_are_cut_short_for_a_terminal(folder, check, tmp_path) -> None:
    (folder / "classes.txt").write_text("\n".join(["background,0", "object,255", *(f"c{n},{n}" for n in range(1, 60))]))
    for number in range(100, 130):
        (folder / "images" / f"{number}.png").write_bytes(b"")
    status, said = check(folder)
    assert status == 1
    assert said.count("wrong: ") == 20
    assert f"and 10 more faults, in {tmp_path / 'out' / 'faults.txt'}" in said
    assert "and 21 more classes, in " in said
    assert len((tmp_path / "out" / "faults.txt").read_text().splitlines()) == 30


def test_a_runs_file_names_its_data(folder, check, tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(
        f"data:\n  name: folders\n  images: {folder}/images\n  masks: {folder}/masks\n  classes: {folder}/classes.txt\n"
    )
    status, said = check("--config", tmp_path / "run.yaml")
    assert status == 0
    assert f"px_seg seg --config {tmp_path / 'run.yaml'}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which dataset is to be checked"),
        (("nowhere",), "nowhere is no folder"),
        (("{empty}",), "holds no dataset that is known by its folders"),
        (("{mine}", "--task", "cls"), "is a dataset for px_seg seg: leave --task cls out"),
        (("--data.name", "nothing"), "there is no dataset 'nothing'"),
        (("{mine}", "--data.classes", "{empty}/none.txt"), "none.txt is not a readable UTF-8 text file"),
        (("{mine}", "--sparsity", "0.5"), "unrecognized arguments: --sparsity 0.5"),
        (("{mine}", "--data.imgs", "x"), "imgs"),
        (("{mine}", "--data.name", "synthetic"), "is a dataset by itself: leave it out, or --data.name"),
        (("--data.images", "{mine}"), "--data.images is for --data.name folders or coco, and data.name is synthetic"),
    ],
)
def test_what_cannot_be_checked_is_one_line(words, message, folder, tmp_path, check) -> None:
    (tmp_path / "empty").mkdir()
    status, said = check(*(word.format(mine=folder, empty=tmp_path / "empty") for word in words))
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_copies_and_sizes_are_those_of_images_as_they_are_shown(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    about = Image.Exif()
    about[274] = 6
    Image.fromarray(pixels).save(tmp_path / "stored.png")
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=about)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "shown.png")
    found = {name: stored(tmp_path / f"{name}.png") for name in ("stored", "turned", "shown")}
    assert found["turned"].content == found["shown"].content != found["stored"].content
    assert (found["turned"].width, found["turned"].height) == (300, 400)


def test_a_class_that_no_training_image_has_is_noted(folder) -> None:
    (folder / "classes.txt").write_text("background,0\nobject,255\nghost,9\n")
    flags = ("--data.name", "folders", "--data.images", folder / "images", "--data.masks", folder / "masks")
    config = parsed(*flags, "--data.classes", folder / "classes.txt")
    found = inspect(Segmentation, config, Segmentation.parts(config))
    assert "no training image has ghost: it cannot be learned" in found.notes


def sixteen(path: Path, highest: int) -> None:
    values = np.linspace(0, highest, 40 * 32).reshape(32, 40).astype(np.uint16)
    Image.fromarray(values).save(path)


def test_of_sixteen_bits_the_upper_eight_are_used_and_noted(tmp_path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        sixteen(path, 60000)
    data = ImageFiles({"a": paths[:2], "b": paths[2:]}, None, "here")
    values = np.array(Image.open(paths[0]))
    assert (data[0].image == (values // 256)[..., None]).all()
    survey = survey_images(data, "images")
    assert {stored.mode for stored in survey.stored.values()} == {"L of 16 bits"}
    assert too_dim(data, survey, "images") == []


def test_images_that_use_twelve_of_sixteen_bits_are_refused(tmp_path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        sixteen(path, 4095)
    data = ImageFiles({"a": paths[:2], "b": paths[2:]}, None, "here")
    (problem,) = too_dim(data, survey_images(data, "images"), "images")
    assert problem.startswith("3 of the images have 16 bits a channel, and none of them a value above 4095, such as ")
    config = parsed("--data.name", "folder", task=Classification)
    assert Classification.problems(config, data, survey_images(data, "images"), "images") == [problem]
    sixteen(paths[1], 4200)
    assert too_dim(data, survey_images(data, "images"), "images") == []
    # A dark one among others is no reason to stop.
    others = [*paths, *(tmp_path / f"bright{number}.png" for number in range(4))]
    for path in others[3:]:
        Image.new("RGB", (40, 32), 99).save(path)
    sixteen(paths[1], 4095)
    mixed = ImageFiles({"a": others, "b": []}, None, "here")
    assert too_dim(mixed, survey_images(mixed, "images"), "images") == []


def test_a_survey_counts_what_the_masks_hold(voc) -> None:
    from px_seg.data.voc import VOC

    data = VOC(voc, "train")
    survey = survey_masks(data, "images")
    masks = [data[index].mask for index in range(len(data))]
    every = np.concatenate([mask.ravel() for mask in masks])
    for label in range(256):
        assert survey.pixels()[label] == (every == label).sum()
        assert survey.images()[label] == sum(bool((mask == label).any()) for mask in masks)
