"""A dataset of composed photographs, laid out as Pascal VOC2012, with exact masks.

Photographs of single objects with an alpha channel are laid over photographic backgrounds, so
the class of every pixel is known. Debian packages both: tuxpaint-stamps-default has the
objects, the desktops' wallpapers are the backgrounds. The files are divided between train and val before anything is
composed, all variants of one picture (mirrored, resized, a light and a dark shade) to the same side. val_seen has
other compositions of what train is composed of.
"""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from px_seg.data.base import IGNORE
from px_seg.data.palette import indexed
from px_seg.data.variants import grouped
from px_seg.errors import InputError
from px_seg.progress import bar

PACKAGES = (
    *("tuxpaint-stamps-default", "mate-backgrounds", "gnome-backgrounds", "ukui-wallpapers"),
    *("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "plasma-workspace-wallpapers"),
)

MAMMALS = "animals/mammals"
CLASSES: dict[str, tuple[str, ...]] = {
    "cattle": (f"{MAMMALS}/bovines",),
    "horse or deer": (f"{MAMMALS}/equines", f"{MAMMALS}/deer", f"{MAMMALS}/camel"),
    "predator": (f"{MAMMALS}/cats", f"{MAMMALS}/dogs", f"{MAMMALS}/bears"),
    "rodent": (f"{MAMMALS}/rodents",),
    "bird": ("animals/birds",),
    "insect": ("animals/insects",),
    "sea animal": ("animals/fish", "animals/shellfish", f"{MAMMALS}/aquatic"),
    "fruit": ("food/fruit",),
    "nut": ("food/nuts",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "tree": ("plants/trees",),
    "road sign": ("town/roadsigns",),
    "tool": ("household/tools",),
    "crockery": ("household/dishes",),
    "coin": ("symbols/money/euro/coins", "symbols/money/us/coins", "symbols/money/canadian/coins"),
    "musical instrument": ("hobbies/music",),
    "planet": ("space/planets", "space/moon"),
    "sports gear": ("sports",),
    "vehicle": ("vehicles", "military/vehicles"),
}
"""Class names, label 1 first, and the stamp folders they are made of. Drawings are left out."""

SPLITS = {"train": 0, "val": 1, "val_seen": 2}
"""The splits, and the number that each one's random stream starts from."""

_SHOW_A_CLASS = (
    *("FreshFlower", "Garden", "YellowFlower", "LadyBird", "TwoWings", "calla", "seeding_by"),
    *("Dragonfly_by", "Kleiber_by", "free_by", "friends_by", "goldfish", "the-mouse", "firstgeneration"),
    *("Picture_0B", "Picture_1A", "Wine_by", "life_by", "ColorfulCups", "EveningGlow", "Autumn", "Path"),
    *("FlyingKonqui", "SafeLanding"),
)
"""Backgrounds that show something of a class, which would be labelled background: how their paths' parts begin."""

SCENE, OBJECT = 2400, 512
"""Longest sides, in pixels, at which backgrounds and objects are kept: the smallest crop of a background is a sixth."""


class Sources(NamedTuple):
    """What one split is composed of."""

    objects: list[list[Path]]
    """Photographs with transparency, one list a class."""
    backgrounds: list[Path]


def unpack_packages(folder: Path) -> tuple[Path, Path]:
    """Download the Debian packages and unpack them in `folder`: (stamps, backgrounds).

    Nothing is installed. Raises InputError where apt-get cannot fetch them.
    """
    try:
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "unpacked"], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is not on this machine: unpack Debian's packages {', '.join(PACKAGES)} "
            "elsewhere and give their folders with --stamps and --backgrounds"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip().splitlines() or ["no reason given"]
        raise InputError(f"{error.cmd[0]} failed ({reason[-1]}): try `apt-get update` first") from None
    share = folder / "unpacked" / "usr" / "share"
    return share / "tuxpaint" / "stamps", share


def find_sources(stamps: Path, backgrounds: Path, seed: int, val_share: float = 0.25) -> dict[str, Sources]:
    """The photographs of each split, divided at random by `seed`, class by class, variants of one picture together.

    `val_share` is a share of the pictures, each counted once with its variants. Raises InputError
    when a class has fewer than two objects that are not variants of one picture, and for
    fewer than two such backgrounds: each split needs one.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for name, folders in CLASSES.items():
        found = sorted(path for folder in folders for path in (stamps / folder).rglob("*.png"))
        found = [path for path in found if "cartoon" not in path.parts and _is_cut_out(path)]
        parts.append(_divide(found, val_share, rng, f"objects of class {name}", stamps))
    scenes = sorted(path for kind in ("*.jpg", "*.jpeg", "*.webp", "*.png") for path in backgrounds.rglob(kind))
    scenes = [path for path in scenes if stamps not in path.parents and _is_scene(path, backgrounds)]
    scenes_train, scenes_val = _divide(scenes, val_share, rng, "backgrounds", backgrounds)
    return {
        "train": Sources([train for train, _ in parts], scenes_train),
        "val": Sources([val for _, val in parts], scenes_val),
        "val_seen": Sources([train for train, _ in parts], scenes_train),
    }


def _divide(
    paths: Sequence[Path], share: float, rng: np.random.Generator, what: str, root: Path
) -> tuple[list[Path], list[Path]]:
    if len(paths) < 2:
        raise InputError(f"there are {len(paths)} {what} in {root}: at least two are needed")
    groups = grouped(paths, root)
    if len(groups) < 2:
        raise InputError(
            f"the {len(paths)} {what} in {root} are variants of one picture: at least two pictures are needed"
        )
    order = [groups[index] for index in rng.permutation(len(groups))]
    cut = max(1, round(share * len(order)))
    train, val = ([path for group in side for path in group] for side in (order[cut:], order[:cut]))
    return train, val


def _is_cut_out(path: Path) -> bool:
    """Whether transparency tells the object from what surrounds it."""
    try:
        opaque = np.asarray(Image.open(path).convert("RGBA"))[..., 3] > 127
    except OSError as error:
        raise InputError(f"{path} is not a readable image: {error}") from None
    return 0.05 < opaque.mean() < 0.95


def _is_scene(path: Path, root: Path) -> bool:
    """Whether a picture is large, opaque, and shows nothing of a class."""
    parts = path.relative_to(root).parts
    if path.is_symlink() or path.stem == "screenshot" or any(part.startswith(_SHOW_A_CLASS) for part in parts):
        return False
    try:
        with Image.open(path) as image:
            # Emblems and icons are transparent around what they show.
            return min(image.size) >= 480 and "transparency" not in image.info and image.mode not in ("RGBA", "LA")
    except OSError as error:
        raise InputError(f"{path} is not a readable image: {error}") from None


def build(folder: Path, sources: dict[str, Sources], counts: dict[str, int], size: int, seed: int) -> Path:
    """Compose `counts[split]` images a split into `folder`/VOCdevkit/VOC2012; the tree's path.

    An image is a pure function of the sources, its split, its number, `size` (its longest
    side) and `seed`.
    """
    tree = folder / "VOCdevkit" / "VOC2012"
    lists = tree / "ImageSets" / "Segmentation"
    for place in (tree / "JPEGImages", tree / "SegmentationClass", lists):
        place.mkdir(parents=True, exist_ok=True)
    (tree / "classes.txt").write_text("\n".join(("background", *CLASSES)) + "\n")

    def write(split: str, number: int) -> str:
        name = f"{split}_{number:05d}"
        image, mask = compose(sources[split], size, np.random.default_rng((seed, SPLITS[split], number)))
        image.save(tree / "JPEGImages" / f"{name}.jpg", quality=90)
        indexed(mask).save(tree / "SegmentationClass" / f"{name}.png")
        return name

    names: dict[str, list[str]] = {}
    with ThreadPoolExecutor() as pool:
        for split, count in counts.items():
            written = pool.map(lambda number, split=split: write(split, number), range(count))
            names[split] = list(bar(written, total=count, desc=f"composing {split}", unit="image"))
    names["trainval"] = [*names["train"], *names["val"]]
    for split, listed in names.items():
        (lists / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return tree


def build_objects(folder: Path, sources: dict[str, Sources], counts: dict[str, int], size: int, seed: int) -> Path:
    """Compose `counts[split]` images of every class into `folder`/objects/SPLIT/CLASS; the path of objects.

    For a classifier of single objects, from which a segmenter's backbone can start. An image of `size` by `size` pixels
    is a pure function of the sources, its split, class and number, `size` and `seed`.
    """
    root = folder / "objects"

    def write(split: str, label: int, number: int) -> None:
        image = compose_object(sources[split], label, size, np.random.default_rng((seed, SPLITS[split], label, number)))
        image.save(root / split / list(CLASSES)[label] / f"{number:05d}.jpg", quality=90)

    wanted = [
        (split, label, number)
        for split, count in counts.items()
        for label in range(len(CLASSES))
        for number in range(count)
    ]
    for split in counts:
        for name in CLASSES:
            (root / split / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        written = pool.map(lambda key: write(*key), wanted)
        list(bar(written, total=len(wanted), desc="composing objects", unit="image"))
    return root


def compose_object(sources: Sources, label: int, size: int, rng: np.random.Generator) -> Image.Image:
    """A photograph of one object of a class, large, on a background."""
    scene = _scene(sources, size, size, rng)
    choices = sources.objects[label]
    cut_out = _vary(_open(choices[rng.integers(len(choices))], "RGBA", OBJECT), size, rng, (0.6, 0.95))
    left, top = (int(rng.uniform(-0.1, 0.1) * size + (size - side) / 2) for side in cut_out.size)
    scene.paste(cut_out, (left, top), cut_out)
    return scene


def compose(sources: Sources, size: int, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """One photograph of one to four objects, later ones over earlier ones, and its labels."""
    width, height = rng.integers(3 * size // 4, size, 2, endpoint=True).tolist()
    scene = _scene(sources, width, height, rng)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 5)):
        label = int(rng.integers(len(sources.objects)))
        choices = sources.objects[label]
        cut_out = _open(choices[rng.integers(len(choices))], "RGBA", OBJECT)
        cut_out = _vary(cut_out, min(width, height), rng, (0.25, 0.7))
        layer = Image.new("RGBA", scene.size)
        # At least half of the object's width and height stays inside.
        left = int(rng.integers(-cut_out.width // 2, width - cut_out.width // 2))
        top = int(rng.integers(-cut_out.height // 2, height - cut_out.height // 2))
        layer.paste(cut_out, (left, top))
        scene.paste(layer, mask=layer)
        opacity = np.asarray(layer)[..., 3]
        mask[opacity > 25] = IGNORE
        mask[_eroded(opacity > 127)] = label + 1
    return scene, mask


def _scene(sources: Sources, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    return _crop(_open(sources.backgrounds[rng.integers(len(sources.backgrounds))], "RGB", SCENE), width, height, rng)


def _crop(scene: Image.Image, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A part of the scene, from all to a sixth of its sides, mirrored or not, in other colours: none comes twice."""
    share = min(scene.width / width, scene.height / height) / 6.0 ** rng.uniform(0, 1)
    size = (max(1.0, share * width), max(1.0, share * height))
    left, top = (rng.uniform(0, whole - part) for whole, part in zip(scene.size, size, strict=True))
    box = (left, top, left + size[0], top + size[1])
    part = scene.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        if rng.random() < 0.5:
            part = part.transpose(turn)
    part = ImageEnhance.Color(part).enhance(rng.uniform(0.3, 1.5))
    part = ImageEnhance.Contrast(part).enhance(rng.uniform(0.6, 1.3))
    gains = rng.uniform(0.6, 1.25) * rng.uniform(0.8, 1.2, 3)
    return Image.fromarray(np.clip(gains * np.asarray(part, float), 0, 255).astype(np.uint8))


def _vary(cut_out: Image.Image, side: int, rng: np.random.Generator, share: tuple[float, float]) -> Image.Image:
    """The object at another angle, brightness and saturation, mirrored or not, its longest side a `share` of `side`."""
    zoom = side * rng.uniform(*share) / max(cut_out.size)
    cut_out = cut_out.resize((max(8, round(zoom * cut_out.width)), max(8, round(zoom * cut_out.height))))
    if rng.random() < 0.5:
        cut_out = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cut_out = cut_out.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, expand=True)
    opacity = cut_out.getchannel("A")
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Color):
        cut_out = enhancer(cut_out).enhance(rng.uniform(0.6, 1.3))
    cut_out.putalpha(opacity)
    return cut_out


def _eroded(inside: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours are inside too; the image's edge counts as inside."""
    padded = np.pad(inside, 1, constant_values=True)
    return inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


@lru_cache(maxsize=512)
def _open(path: Path, mode: str, limit: int) -> Image.Image:
    image = Image.open(path).convert(mode)
    image.thumbnail((limit, limit))
    return image
