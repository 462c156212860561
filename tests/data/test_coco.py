"""Annotations in COCO's JSON: polygons, runs, crowds and panoptic segments, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import go
from PIL import Image

from px_seg import InputError
from px_seg.data.coco import read_coco

HEIGHT, WIDTH = 40, 56

About = dict[str, Any]


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """The polygon around pixels [top, bottom) x [left, right)."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask: np.ndarray) -> About:
    """COCO's runs, column by column, those of 0 first."""
    values = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *edges, values.size]).tolist()
    return {"size": [*mask.shape], "counts": [0, *lengths] if values[0] else lengths}


def instances(numbers: range) -> About:
    """A large cat with a small dog on it, a crowd below, and a cat by runs that is a ring."""
    annotations = []
    for number in numbers:
        ring = np.zeros((HEIGHT, WIDTH), bool)
        ring[30:38, 2:12], ring[32:36, 5:9] = True, False
        for about in (
            {"category_id": 7, "segmentation": [rectangle(10, 8, 14, 12)]},
            {"category_id": 3, "segmentation": [rectangle(4, 4, 30, 28), rectangle(40, 0, 44, 4)]},
            {"category_id": 7, "iscrowd": 1, "segmentation": runs(np.eye(HEIGHT, WIDTH, dtype=bool) | ring)},
            {"category_id": 3, "iscrowd": 0, "segmentation": runs(ring)},
        ):
            annotations.append({"id": len(annotations), "image_id": number, **about})
    images = [{"id": number, "file_name": f"{number:03d}.png", "height": HEIGHT, "width": WIDTH} for number in numbers]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def expected() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[np.eye(HEIGHT, WIDTH, dtype=bool)] = 255
    labels[30:38, 2:12] = 1
    labels[32:36, 5:9] = 0
    labels[32:36, 5:9][np.eye(HEIGHT, WIDTH, dtype=bool)[32:36, 5:9]] = 255
    labels[4:28, 4:30] = labels[0:4, 40:44] = 1
    labels[8:12, 10:14] = 2
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train2017 and val2017 with six and three images, and their files of annotations."""
    rng = np.random.default_rng(0)
    for split, numbers in (("train2017", range(6)), ("val2017", range(6, 9))):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in numbers:
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{number:03d}.png")
        (tmp_path / f"{split}.json").write_text(json.dumps(instances(numbers)))
    return tmp_path


def splits(folder: Path) -> tuple[str, str]:
    return str(folder / "train2017.json"), str(folder / "val2017.json")


def test_objects_are_drawn_small_over_large_and_crowds_have_no_label(folder: Path) -> None:
    train, val = read_coco(str(folder / "images"), None, splits(folder))
    assert (len(train), len(val)) == (6, 3)
    assert train.classes == val.classes == ("background", "cat", "dog")
    assert train.faults == []
    sample = val[1]
    assert np.array_equal(sample.mask, expected())
    assert sample.mask.dtype == np.uint8
    assert np.array_equal(sample.image, np.array(Image.open(folder / "images" / "val2017" / "007.png")))
    assert val.files(1) == (folder / "images" / "val2017" / "007.png", folder / "val2017.json")


def panoptic(folder: Path) -> None:
    """The same images with two segments and what no segment covers."""
    for split in ("train2017", "val2017"):
        file = folder / f"{split}.json"
        held = json.loads(file.read_text())
        (folder / "segments" / split).mkdir(parents=True)
        held["annotations"] = []
        for about in held["images"]:
            numbers = np.zeros((HEIGHT, WIDTH), int)
            numbers[:20], numbers[20:30], numbers[30:35] = 70000 + about["id"], 3, 300
            colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], -1).astype(np.uint8)
            Image.fromarray(colours).save(folder / "segments" / split / about["file_name"])
            segments = [
                {"id": 70000 + about["id"], "category_id": 3},
                {"id": 3, "category_id": 7},
                {"id": 300, "category_id": 7, "iscrowd": 1},
            ]
            held["annotations"].append(
                {"image_id": about["id"], "file_name": about["file_name"], "segments_info": segments}
            )
        file.write_text(json.dumps(held))


def test_panoptic_segments_are_read_by_their_colours(folder: Path) -> None:
    panoptic(folder)
    train, _ = read_coco(str(folder / "images"), str(folder / "segments"), splits(folder))
    labels = train[4].mask
    assert [int(labels[row, 0]) for row in (0, 25, 32, 38)] == [1, 2, 255, 255]
    assert train.files(4)[1] == folder / "segments" / "train2017" / "004.png"
    picture = folder / "segments" / "train2017" / "004.png"
    pixels = np.array(Image.open(picture))
    pixels[0, 0] = 9, 9, 9
    Image.fromarray(pixels).save(picture)
    with pytest.raises(InputError, match=r"004.png holds the segment 592137, of which .*train2017.json says nothing"):
        train[4]
    with pytest.raises(InputError, match=r"is of panoptic segments: give the folder of their pictures, --data.masks"):
        read_coco(str(folder / "images"), None, splits(folder))
    picture.unlink()
    train, _ = read_coco(str(folder / "images"), str(folder / "segments"), splits(folder))
    assert [fault.split(":")[0] for fault in train.faults] == ["the segments of 004.png are missing"]


Change = Callable[[About], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("categories"), r"train2017.json is not in COCO's format: KeyError 'categories'"),
        (
            lambda held: held["categories"].append({"id": 3, "name": "cow"}),
            r"n2017.json: the categories of",
        ),
        (lambda held: held["categories"][0].update(name="background"), "a category is called background"),
        (lambda held: held["annotations"][1].update(category_id=5), "annotation 1 is of no category that is listed"),
        (lambda held: held["annotations"][1].update(image_id=99), "is not in COCO's format: KeyError 99"),
        (lambda held: held["images"][0].update(file_name="../a.png"), r"'../a.png' is no file's name below"),
        (lambda held: held["images"][0].update(file_name="twice.png"), r"twice.png may be .*a/twice.png or .*b/twice"),
        (lambda held: held["images"].clear() or held["annotations"].clear(), "lists no images"),
        (lambda held: held["categories"][0].update(name="wolf"), "have different categories"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(folder: Path, change: Change, message: str) -> None:
    file = folder / "train2017.json"
    held = json.loads(file.read_text())
    for place in ("a", "b"):
        (folder / "images" / place).mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / place / "twice.png")
    change(held)
    file.write_text(json.dumps(held))
    with pytest.raises(InputError, match=message):
        read_coco(str(folder / "images"), None, splits(folder))


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon needs three points"),
        ([], "a polygon needs three points"),
        (None, "the outline of annotation 0 of 000.png is none"),
        ({"size": [9, 9], "counts": [81]}, "it is of 9x9 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "%%"}, "000.png"),
    ],
)
def test_an_outline_that_is_none_is_named(folder: Path, outline: object, message: str) -> None:
    file = folder / "train2017.json"
    held = json.loads(file.read_text())
    held["annotations"][0]["segmentation"] = outline
    file.write_text(json.dumps(held))
    train, _ = read_coco(str(folder / "images"), None, splits(folder))
    with pytest.raises(InputError, match=message):
        train[0]


def test_what_is_missing_or_of_another_size_is_named(folder: Path, monkeypatch) -> None:
    (folder / "images" / "train2017" / "002.png").unlink()
    Image.new("RGB", (20, 20)).save(folder / "images" / "train2017" / "003.png")
    train, _ = read_coco(str(folder / "images"), None, splits(folder))
    (fault,) = train.faults
    assert fault.endswith(f"lists an image that is missing: there is no 002.png in {folder / 'images'}")
    with pytest.raises(InputError, match=r"003.png is 20x20 pixels, and its annotations in .*json are of 56x40"):
        train[2]
    for given, message in (
        ((None, None, splits(folder)), "needs --data.images, the folder of the images"),
        ((str(folder / "images"), None, ("train", "val")), "needs --data.train_split, a JSON file of annotations"),
        ((str(folder / "images"), None, (str(folder / "no.json"),) * 2), "no.json cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_coco(*given)
    monkeypatch.setattr("px_seg.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pycocotools is not installed: pip install 'px_seg\[coco\]' brings it"):
        read_coco(str(folder / "images"), None, splits(folder))


def test_a_run_learns_from_it(folder: Path, tmp_path: Path) -> None:
    train, val = splits(folder)
    flags = ("--data.name", "coco", "--data.images", folder / "images", "--data.train_split", train)
    flags += ("--data.val_split", val, "--data.size", 32, "--data.workers", 0, "--encoder", "tu-test_resnet")
    flags += ("--weights", "none", "--method", "random", "--sparsity", 0.5, "--epochs", 1, "--batch_size", 2)
    results = go(*flags, "--output_dir", tmp_path / "out")
    assert list(results["class_iou"]) == ["background", "cat", "dog"]
