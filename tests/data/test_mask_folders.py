"""Images and masks in two folders: splits, what masks stand for, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import go
from PIL import Image

from px_seg import InputError
from px_seg.data.mask_codes import MaskCode, read_classes
from px_seg.data.mask_folders import MaskFolders, Pairs, read_mask_folders

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
    ("lines", "message"),
    [
        (("background",), "names 1 classes: it must name 2 to 255, the background first"),
        (("a", "b,1"), "line 2: 'b,1' is not like the lines before it"),
        (("a,0", "b,#ff0000"), "line 2: 'b,#ff0000' is not like the lines before it"),
        (("a,0", "b,red"), "line 2: 'b,red' is not like the lines before it: every line is a name, or name,value"),
        (("a,0", "b,0"), "line 2: 0 stands for two classes"),
        (("a,0", "a,1"), "line 2: a is there twice"),
        (("a,0", ",1"), "line 2: a class has no name"),
        (("a,0", "b,70000"), "line 2: a mask holds values up to 65535 or colours, not 70000"),
        (("a,0,0,0", "b,300,0,0"), "line 2: a mask holds values up to 65535 or colours, not 300,0,0"),
        ((), "names 0 classes"),
    ],
)
def test_what_names_no_classes_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_classes(classes(tmp_path, *lines))


def test_what_is_missing_or_does_not_fit_is_named(folders: Folders, tmp_path: Path) -> None:
    images, masks = folders
    file = classes(tmp_path, "background", "disc", "bar")
    for given, message in (
        ((None, str(masks), str(file)), r"data.name folders needs --data.images: folders of images and of masks"),
        ((str(images), None, str(file)), "needs --data.masks"),
        ((str(images), str(masks), None), "needs --data.classes"),
        ((str(images), str(masks), "gone.txt"), r"--data.classes .*gone.txt is not a readable UTF-8 text file"),
        ((str(tmp_path / "gone"), str(masks), str(file)), "--data.images .*gone is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            read_mask_folders(*given, ("train", "val"), 0.2, 0)
    for splits, message in (
        (("day0", "day2"), "there is no split 'day2': no folder .*day2, and it is no list, NAME.txt"),
        (("day0", "val"), "there is no split 'val'"),
        (("gone.txt", "val"), "gone.txt is not a readable"),
    ):
        with pytest.raises(InputError, match=message):
            read(folders, file, splits)
    for share in (0, 1, -1):
        with pytest.raises(InputError, match=r"data.val_share must be above 0 and below 1"):
            read(folders, file, share=share)
    (tmp_path / "twice.txt").write_text("day1/photo 3\nday1/photo 3.bmp\n")
    (fault,) = read(folders, file, (str(tmp_path / "twice.txt"), "day0"))[0].faults
    assert fault.endswith("twice.txt lists an image twice, day1/photo 3")
    (tmp_path / "other.txt").write_text("day1/photo 30\nday1/photo 3\nday1/photo 31\n")
    train, _ = read(folders, file, (str(tmp_path / "other.txt"), "day0"))
    assert len(train) == 1
    assert [re.findall("lists '(.*)', of which there is no image", fault) for fault in train.faults] == [
        ["day1/photo 30"],
        ["day1/photo 31"],
    ]

    path = masks / "day0" / "photo 2.png"
    data = MaskFolders(Pairs([(images / "day0" / "photo 2.tif", path)]), read_classes(file))
    for pixels, message in (
        (
            np.full((40, 32), 9, np.uint8),
            "photo 2.png holds 9, which .*classes.txt does not list: give every",
        ),
        (np.zeros((32, 40), np.uint8), "photo 2.png is 40x32 pixels, but its image .*photo 2.tif is 32x40"),
        (np.stack([np.eye(40, 32, dtype=np.uint8)] * 2 + [np.zeros((40, 32), np.uint8)], -1), "is in colour, and the"),
    ):
        Image.fromarray(pixels).save(path)
        with pytest.raises(InputError, match=message):
            data[0]
    path.rename(masks / "day0" / "photo 2_mask.png")
    train, val = read(folders, file)
    (fault,) = (*train.faults, *val.faults)
    assert len(train) + len(val) == 9
    assert train.notes[1:] == [f"1 masks have no image in {images}, such as {masks / 'day0' / 'photo 2_mask.png'}"]
    assert re.search(r"photo 2.tif has no mask in .*masks \(there is .*photo 2_mask.png: a mask must have its", fault)
    (images / "day1" / "photo 1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"photo 1.jpg and .*photo 1.png have one name"):
        read(folders, file)


def test_labels_that_a_jpeg_has_blurred_are_told(tmp_path: Path) -> None:
    code = MaskCode(("a", "b"), {0: 0, 200: 1}, False, tmp_path / "classes.txt")
    with pytest.raises(InputError, match=r"mask.JPG holds 199, .*: a JPEG blurs its labels, save masks as PNG"):
        code.decoded(np.array([[0, 199]]), Path("mask.JPG"))


def test_a_run_says_what_its_masks_hold(folders: Folders, tiny, tmp_path: Path, capsys) -> None:
    file = classes(tmp_path, "background", "disc", "bar")
    flags = ("--config", tiny, "--method", "random", "--batch_size", 2, "--data.name", "folders")
    places = ("--data.images", folders[0], "--data.masks", folders[1], "--data.classes", file)
    results = go(*flags, *places, "--output_dir", tmp_path / "out")
    assert (results["data"]["train"], results["data"]["val"]) == (8, 2)
    assert results["notes"][0] == "masks hold values: 0 background, 1 disc, 2 bar, 255 void"
    assert list(results["class_iou"]) == ["background", "disc", "bar"]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["data"]["name"] == "folders"
    # Found good, and on record, as what they were said to hold; now they are said to hold something else.
    classes(tmp_path, "background,0", "bar,1", "disc,2", "void,255")
    again = go(*flags, *places, "--epochs", 0, "--class_weights", "balanced", "--output_dir", tmp_path / "again")
    assert list(again["class_iou"]) == ["background", "bar", "disc"]
    classes(tmp_path, "background,0", "disc,1", "void,255")
    with pytest.raises(InputError, match=r"holds 2, which .*classes.txt does not list"):
        go(*flags, *places, "--output_dir", tmp_path / "fewer")
    classes(tmp_path, "background", "disc", "bar")
    # Two values, of which 255 is meant to be an object.
    for path in folders[1].rglob("*.png"):
        Image.fromarray(np.where(np.array(Image.open(path)) == 0, 0, 255).astype(np.uint8)).save(path)
    with pytest.raises(InputError, match=r"are of one class, background: masks hold values: .*, write NAME,VALUE in"):
        go(*flags, *places, "--output_dir", tmp_path / "binary")
    classes(tmp_path, "background,0", "object,255")
    binary = go(*flags, *places, "--output_dir", tmp_path / "binary")
    assert list(binary["class_iou"]) == ["background", "object"]


def test_beside_a_list_the_rest_is_the_other_part(folders: Folders, tmp_path: Path) -> None:
    file = classes(tmp_path, "background", "ball", "box")
    (tmp_path / "some.txt").write_text("day1/photo 3\nday0/photo 2\n")
    listed = str(tmp_path / "some.txt")
    for splits, sizes in ((("train", listed), (8, 2)), ((listed, "val"), (2, 8))):
        parts = read(folders, file, splits)
        assert tuple(map(len, parts)) == sizes
        assert not set(parts[0].pairs) & set(parts[1].pairs)


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
