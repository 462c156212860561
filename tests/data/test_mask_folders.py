"""Images and masks in two folders: splits, what masks stand for, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from px_seg import InputError
from px_seg.data.mask_codes import read_classes
from px_seg.data.mask_folders import MaskFolders, read_mask_folders

COLOURS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (10, 20, 30), 255: (255, 255, 255)}

Folders = tuple[Path, Path]


def classes(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def labels_of(number: int) -> np.ndarray:
    """A mask of two classes on a background, with void."""
    labels = np.zeros((40, 30 + number), np.uint8)
    labels[5:20, 5:20] = 1 + number % 2
    labels[20, :] = 255
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Ten images of several formats and depths, with masks of indices."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    rng = np.random.default_rng(0)
    for number in range(10):
        labels = labels_of(number)
        pixels = rng.integers(0, 60, (*labels.shape, 3), dtype=np.uint8) + 90 * (labels[..., None] % 255)
        name = f"day{number % 2}/photo {number}"
        for folder in (images, masks):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(images / f"{name}.{('png', 'jpg', 'tif', 'bmp', 'JPEG')[number % 5]}")
        Image.fromarray(labels).save(masks / f"{name}.png")
    return images, masks


def read(folders: Folders, file: Path, splits=("train", "val"), share=0.2, seed=0) -> tuple[MaskFolders, MaskFolders]:
    return read_mask_folders(*map(str, folders), str(file), splits, share, seed)


def test_a_share_is_drawn_by_the_seed(folders: Folders, tmp_path: Path) -> None:
    file = classes(tmp_path, "background", "disc", "bar")
    train, val = read(folders, file, share=0.3)
    assert (len(train), len(val), train.classes) == (7, 3, ("background", "disc", "bar"))
    names = [{pair[0] for pair in part.pairs} for part in (train, val)]
    assert not names[0] & names[1]
    assert [pair[0] for pair in read(folders, file, share=0.3)[1].pairs] == [pair[0] for pair in val.pairs]
    assert {pair[0] for pair in read(folders, file, share=0.3, seed=1)[1].pairs} != names[1]
    for data in (train, val):
        for index, (image, _) in enumerate(data.pairs):
            np.testing.assert_array_equal(data[index].mask, labels_of(int(image.stem.split()[1])))
    assert train.files(0) == train.pairs[0]


def test_folders_and_lists_are_splits(folders: Folders, tmp_path: Path) -> None:
    file = classes(tmp_path, "background", "disc", "bar")
    train, val = read(folders, file, ("day0", "day1"))
    assert [int(image.stem.split()[1]) % 2 for image, _ in train.pairs] == [0] * 5
    assert [int(image.stem.split()[1]) % 2 for image, _ in val.pairs] == [1] * 5
    (tmp_path / "a.txt").write_text("day1/photo 3\nday0/photo 4.JPEG\n")
    (tmp_path / "b.txt").write_text("day0/photo 0.png\n")
    train, val = read(folders, file, (str(tmp_path / "a.txt"), str(tmp_path / "b.txt")))
    assert [image.name for image, _ in train.pairs] == ["photo 3.bmp", "photo 4.JPEG"]
    assert [image.name for image, _ in val.pairs] == ["photo 0.png"]


def recoded(labels: np.ndarray, codes: dict) -> np.ndarray:
    table = np.zeros((256, *np.shape(codes[0])), np.uint8)
    for label, code in codes.items():
        table[label] = code
    return table[labels]


@pytest.mark.parametrize("kind", ["indices", "values", "grey in colour", "colours", "palette", "two values", "1 bit"])
def test_masks_of_every_kind_are_the_same_labels(folders: Folders, tmp_path: Path, kind: str) -> None:
    lines = {
        "indices": ("background", "disc", "bar"),
        "values": ("background,7", "disc,100", "bar,3", "void,0"),
        "grey in colour": ("background,7", "disc,100", "bar,3", "Void, 0"),
        "colours": ("background,#000000", "disc, 255, 0, 0", "bar,#0a141E", "ignore,#ffffff"),
        "palette": ("background,#000000", "disc,#ff0000", "bar,#0a141e", "void,#ffffff"),
        "two values": ("background,0", "object,255"),
        "1 bit": ("background,0", "object,255"),
    }[kind]
    two = kind in ("two values", "1 bit")
    for number in range(10):
        labels = labels_of(number)
        path = folders[1] / f"day{number % 2}" / f"photo {number}.png"
        if two:
            image = Image.fromarray(np.where(labels == 1 + number % 2, 255, 0).astype(np.uint8))
            image = image.convert("1") if kind == "1 bit" else image
        elif kind in ("values", "grey in colour"):
            image = Image.fromarray(recoded(labels, {0: 7, 1: 100, 2: 3, 255: 0}))
            image = image.convert("RGB") if kind == "grey in colour" else image
        elif kind == "colours":
            image = Image.fromarray(recoded(labels, COLOURS))
        else:
            image = Image.fromarray(labels)
            if kind == "palette":
                image.putpalette([part for label in range(256) for part in COLOURS.get(label, (9, 9, 9))])
        image.save(path)
    train, val = read(folders, classes(tmp_path, *lines))
    for data in (train, val):
        for index, (image, _) in enumerate(data.pairs):
            expected = labels_of(int(image.stem.split()[1]))
            expected = np.isin(expected, (1, 2)).astype(np.uint8) if two else expected
            np.testing.assert_array_equal(data[index].mask, expected)


def test_classes_are_said_in_a_line(tmp_path: Path) -> None:
    code = read_classes(classes(tmp_path, "sky,10", "", "ground,300", "void,0"))
    assert str(code) == "masks hold values: 10 sky, 300 ground, 0 void"
    assert code.decoded(np.array([[10, 300], [0, 10]]), Path("m.png")).tolist() == [[0, 1], [255, 0]]
    many = read_classes(classes(tmp_path, *(f"class{number}" for number in range(12))))
    assert str(many).endswith("7 class7 and 5 more")
    coloured = read_classes(classes(tmp_path, "sky,#0000ff", "ground,0,128,0"))
    assert str(coloured) == "masks hold colours: #0000ff sky, #008000 ground"


@pytest.mark.parametrize(
    ("lines", "way_out"),
    [
        (("background", "ball"), "give every line its value, such as background,0, and then NAME,2, or void,2"),
        (("background,0", "ball,1", "void,255"), "add a line for it, NAME,2, or void,2 if it is no label"),
        (("background,#000000", "ball,#010101", "void,#ffffff"), "or void,#020202 if it is no label; where masks hold"),
    ],
)
def test_the_way_out_of_an_unknown_value_fits_the_file(folders: Folders, tmp_path: Path, lines, way_out) -> None:
    train, _ = read(folders, classes(tmp_path, *lines))
    with pytest.raises(InputError) as error:
        list(map(train.__getitem__, range(len(train))))
    assert way_out in str(error.value)


def test_a_name_of_void_is_no_class_and_comments_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 3: void is no class, and where no line has a value 255 has no label"):
        read_classes(classes(tmp_path, "background", "ball", "void"))
    assert read_classes(classes(tmp_path, "# mine", "background", "ball")).classes == ("background", "ball")
