"""The photo dataset from stand-ins for the photographs."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from px_seg import InputError
from px_seg.data.photo import CLASSES, build, compose, find_sources
from px_seg.data.voc import VOC


@pytest.fixture
def folders(tmp_path):
    stamps, backgrounds = tmp_path / "stamps", tmp_path / "backgrounds"
    backgrounds.mkdir()
    for label, places in enumerate(CLASSES.values()):
        (stamps / places[0]).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGBA", (60, 40))
            ImageDraw.Draw(image).ellipse((5, 5, 50, 35), fill=(10 * label, 200, 80 * number, 255))
            image.save(stamps / places[0] / f"{number}.png")
    for number in range(3):
        Image.new("RGB", (640, 480), (90, 90, 80 * number)).save(backgrounds / f"{number}.jpg")
    return stamps, backgrounds


def test_train_and_val_share_no_photograph(folders) -> None:
    sources = find_sources(*folders, seed=0)
    train, val = (
        {path for paths in [*sources[split].objects, sources[split].backgrounds] for path in paths}
        for split in ("train", "val")
    )
    assert not train & val
    assert len(train | val) == 3 * len(CLASSES) + 3
    assert all(sources["val"].objects)


def test_the_tree_reads_as_voc_and_is_the_same_again(folders, tmp_path) -> None:
    sources = find_sources(*folders, seed=0)
    trees = [tmp_path / name for name in ("one", "two")]
    for place in trees:
        build(place, sources, {"train": 4, "val": 3}, 96, seed=0)
    first, second = (VOC(place, "trainval") for place in trees)
    assert len(first) == 7
    assert first.classes == ("background", *CLASSES)
    for index in range(7):
        assert np.array_equal(first[index].image, second[index].image)
        assert np.array_equal(first[index].mask, second[index].mask)
        assert max(first[index].mask.shape) <= 96


def test_labels_lie_on_the_objects(folders) -> None:
    """The stand-ins have green 200 before varying, the backgrounds 90: labels follow the colour."""
    sources = find_sources(*folders, seed=0)
    image, mask = compose(sources["train"], 128, np.random.default_rng(3))
    red, green, _ = np.asarray(image).astype(int).transpose(2, 0, 1)
    objects = green - red > 20
    labelled = (mask > 0) & (mask < 255)
    assert objects[labelled].mean() > 0.6
    assert not objects[mask == 0].any()


def test_missing_photographs_are_named(folders, tmp_path) -> None:
    stamps, _ = folders
    with pytest.raises(InputError, match="0 backgrounds in"):
        find_sources(stamps, tmp_path / "nothing", seed=0)
    with pytest.raises(InputError, match="0 objects of class cattle"):
        find_sources(tmp_path / "nothing", tmp_path, seed=0)
