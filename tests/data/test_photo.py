"""The photo dataset from stand-ins for the photographs."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from px_seg import InputError
from px_seg.data.class_folders import read_class_folders
from px_seg.data.photo import CLASSES, _crop, build, build_objects, compose, find_sources
from px_seg.data.variants import grouped
from px_seg.data.voc import VOC


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


def test_seen_objects_are_validated_in_compositions_of_their_own(folders, tmp_path) -> None:
    sources = find_sources(*folders, seed=0)
    assert sources["val_seen"] == sources["train"]
    build(tmp_path, sources, {"train": 6, "val": 6, "val_seen": 6}, 64, seed=0)
    seen, train = VOC(tmp_path, "val_seen"), VOC(tmp_path, "train")
    assert len(VOC(tmp_path, "trainval")) == 12
    assert not any(np.array_equal(seen[i].mask, train[j].mask) for i in range(6) for j in range(6))


def test_single_objects_lie_in_folders_of_their_classes(folders, tmp_path) -> None:
    sources = find_sources(*folders, seed=0)
    trees = [build_objects(tmp_path / name, sources, {"train": 2, "val": 1}, 64, seed=0) for name in ("one", "two")]
    (train, val), (again, _) = (read_class_folders(tree, None) for tree in trees)
    assert (len(train), len(val)) == (40, 20)
    assert sorted(train.classes) == sorted(CLASSES)
    for index in range(40):
        image, label = train[index]
        assert image.shape == (64, 64, 3)
        assert np.array_equal(image, again[index].image)
        # The stand-ins have green 200, red 10 times the label: both are scaled alike.
        red, green, _ = image[24:40, 24:40].astype(int).mean((0, 1))
        place = list(CLASSES).index(train.classes[label])
        assert red < green or place > 15
    assert not np.array_equal(train[0].image, train[1].image)


def test_a_background_comes_at_many_scales_and_in_other_colours_each_time() -> None:
    """Stripes of 40 pixels: how wide they come out says how much of the picture was taken."""
    stripes = np.zeros((960, 1280, 3), np.uint8)
    stripes[:, np.arange(1280) // 40 % 2 == 1] = 200
    rng = np.random.default_rng(0)
    crops = [np.asarray(_crop(Image.fromarray(stripes), 96, 72, rng)) for _ in range(60)]
    assert {crop.shape for crop in crops} == {(72, 96, 3)}
    edges = [int((np.abs(np.diff(crop[36].astype(int).sum(1))) > 40).sum()) for crop in crops]
    # 32 stripes where all of it is shown, 5 where a sixth is.
    assert min(edges) < 12
    assert max(edges) > 24
    assert len({tuple(crop.max((0, 1))) for crop in crops}) > 50


def test_backgrounds_that_show_a_class_and_emblems_are_left_out(folders) -> None:
    stamps, backgrounds = folders
    (backgrounds / "Wine_by_somebody.jpg").write_bytes((backgrounds / "0.jpg").read_bytes())
    Image.new("RGBA", (640, 480)).save(backgrounds / "emblem.png")
    Image.new("RGB", (100, 100)).save(backgrounds / "small.png")
    kde = backgrounds / "SafeLanding" / "contents" / "images"
    kde.mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(kde / "640x480.png")
    sources = find_sources(stamps, backgrounds, seed=0)
    found = {path.name for split in ("train", "val") for path in sources[split].backgrounds}
    assert found == {"0.jpg", "1.jpg", "2.jpg"}


def test_missing_photographs_are_named(folders, tmp_path) -> None:
    stamps, _ = folders
    with pytest.raises(InputError, match="0 backgrounds in"):
        find_sources(stamps, tmp_path / "nothing", seed=0)
    with pytest.raises(InputError, match="0 objects of class cattle"):
        find_sources(tmp_path / "nothing", tmp_path, seed=0)


def speckled(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """An opaque picture of random blocks, unlike that of any other seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size)


def cut_out(image: Image.Image) -> Image.Image:
    """The ellipse in the middle of the picture, the rest transparent."""
    opacity = Image.new("L", image.size)
    ImageDraw.Draw(opacity).ellipse((5, 5, image.width - 10, image.height - 5), fill=255)
    image.putalpha(opacity)
    return image


VARIANTS = {
    "plain": lambda image: image,
    "mirror": ImageOps.mirror,
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.4),
    "pale": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "small": lambda image: image.resize((image.width // 2, image.height // 2)),
    "dark and mirrored": lambda image: ImageOps.mirror(ImageEnhance.Brightness(image).enhance(0.6)),
}
"""Variants that the content tells, and the picture itself."""


@pytest.fixture
def varied(folders):
    """The stand-ins with every variant of one object and of one background, and two unrelated ones of each."""
    stamps, backgrounds = folders
    cattle = stamps / CLASSES["cattle"][0]
    for name, change in VARIANTS.items():
        change(cut_out(speckled(1))).save(cattle / f"variant-{name}.png")
        change(speckled(2, (1280, 960))).save(backgrounds / f"variant-{name}.jpg")
    for seed in (3, 4):
        cut_out(speckled(seed)).save(cattle / f"other-{seed}.png")
        speckled(seed, (1280, 960)).save(backgrounds / f"other-{seed}.jpg")
    return stamps, backgrounds


def test_variants_of_a_picture_fall_on_one_side_whatever_the_seed(varied) -> None:
    sides = set()
    for seed in range(25):
        sources = find_sources(*varied, seed)
        for part in ("objects", "backgrounds"):
            train, val = (
                [path.stem for path in (split.backgrounds if part == "backgrounds" else split.objects[0])]
                for split in (sources["train"], sources["val"])
            )
            held = {sum(stem.startswith("variant-") for stem in side) for side in (train, val)}
            assert held == {0, len(VARIANTS)}
            assert len(train + val) == len(VARIANTS) + 2 + 3
            sides.add((part, any(stem.startswith("variant-") for stem in val)))
    assert len(sides) == 4, "each side gets them with some seed"


def test_pictures_that_only_share_an_outline_are_not_variants(tmp_path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(40)]
    for seed, path in enumerate(paths):
        cut_out(speckled(seed)).save(path)
    assert grouped(paths, tmp_path) == [[path] for path in paths]


def test_pictures_without_detail_are_not_variants(tmp_path) -> None:
    paths = [tmp_path / f"{level}.png" for level in (0, 90, 91, 200)]
    for level, path in zip((0, 90, 91, 200), paths, strict=True):
        cut_out(Image.new("RGB", (60, 40), (level, 90, 90))).save(path)
    assert grouped(paths, tmp_path) == [[path] for path in paths]


def test_names_tell_the_variants_that_were_drawn_anew(tmp_path) -> None:
    names = ("car", "car_mirror", "car_2", "sky-d", "sky-l", "sky-dim", "mirror")
    paths = [tmp_path / f"{name}.png" for name in names]
    for seed, path in enumerate(paths):
        speckled(seed).save(path)
    elsewhere = tmp_path / "elsewhere" / "car_mirror.png"
    elsewhere.parent.mkdir()
    speckled(len(paths)).save(elsewhere)
    groups = [[path.stem for path in group] for group in grouped([*paths, elsewhere], tmp_path)]
    assert groups == [["car", "car_mirror"], ["car_2"], ["sky-d", "sky-l"], ["sky-dim"], ["mirror"], ["car_mirror"]]


def test_shapes_of_one_wallpaper_of_kde_are_variants(tmp_path) -> None:
    """And nothing else, whatever the folders above are called."""
    root = tmp_path / "contents" / "backgrounds"
    paths = [
        root / name / "contents" / folder / f"{number}.png"
        for name in ("Altai", "Kay")
        for number, folder in enumerate(("images", "images", "images_dark"))
    ]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        speckled(seed).save(path)
    assert grouped(paths, root) == [paths[:3], paths[3:]]


def test_a_picture_that_is_a_variant_of_two_others_joins_them(tmp_path) -> None:
    """car and car_mirror by their names, car_mirror and shade by their content."""
    for name, image in {"car": speckled(0), "shade": VARIANTS["dark"](speckled(1)), "car_mirror": speckled(1)}.items():
        image.save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in ("car", "shade", "other", "car_mirror")]
    speckled(2).save(paths[2])
    assert grouped(paths, tmp_path) == [[paths[0], paths[1], paths[3]], [paths[2]]]


def test_a_class_of_one_picture_and_its_variants_is_refused(folders) -> None:
    stamps, backgrounds = folders
    nuts = stamps / CLASSES["nut"][0]
    for old, (name, change) in zip(nuts.glob("*.png"), VARIANTS.items(), strict=False):
        old.unlink()
        change(cut_out(speckled(1))).save(nuts / f"{name}.png")
    with pytest.raises(InputError, match=r"the 3 objects of class nut in .* are variants of one picture: at least two"):
        find_sources(stamps, backgrounds, seed=0)


def test_a_damaged_photograph_is_named(folders) -> None:
    stamps, backgrounds = folders
    damaged = backgrounds / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"1\.jpg is not a readable image"):
        find_sources(stamps, backgrounds, seed=0)
