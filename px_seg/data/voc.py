"""Datasets laid out like Pascal VOC2012: photographs, palette masks and lists of names."""

from pathlib import Path

from px_seg.data.base import IGNORE, Sample
from px_seg.data.images import mask_of, opened, photograph
from px_seg.errors import InputError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

LONGEST = 250
"""Bytes of a file's name that file systems take, less its ending."""


class VOC:
    """One split of a VOC2012 tree.

    `root` is the folder that holds `VOCdevkit`, or `VOC2012` itself. `split` is a list in
    `ImageSets/Segmentation`, or `train_aug`: every mask in `SegmentationClassAug` that the
    list `held_out` does not name. A file `classes.txt` in the tree, one name a line and the background first,
    names the classes of another dataset laid out the same way.

    Images and masks that a list names and that are missing are its `faults`. Raises InputError for a missing tree, an
    empty or missing split and names that lead elsewhere; reading a sample, for one that is damaged or does not fit its
    mask.
    """

    encoding = ""

    def __init__(self, root: str | Path, split: str, held_out: str = "val", channels: int = 3) -> None:
        self.folder = find_tree(root)
        self.classes = _classes(self.folder)
        self.split, self.channels = split, channels
        masks = "SegmentationClassAug" if split == "train_aug" else "SegmentationClass"
        self.names: list[str] = []
        self._images: list[Path] = []
        self._masks: list[Path] = []
        self.faults: list[str] = []
        for name in _names(self.folder, split, held_out):
            image, mask = self.folder / "JPEGImages" / f"{name}.jpg", self.folder / masks / f"{name}.png"
            if not image.is_file():
                self.faults.append(f"split {split} lists an image that is missing: {image}")
            elif not mask.is_file():
                self.faults.append(f"the image {image.name} of split {split} has no mask: {mask} is missing")
            else:
                self.names.append(name)
                self._images.append(image)
                self._masks.append(mask)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image = photograph(self._images[index], self.channels)
        path = self._masks[index]
        indexed = opened(path)
        if indexed.mode not in ("P", "L"):
            raise InputError(f"{path} is a {indexed.mode} image: a mask is a palette PNG of class indices")
        mask = mask_of(image, indexed, f"{self._images[index]} and {path.name}")
        height, width = image.pixels.shape[:2]
        if mask.shape != (height, width):
            raise InputError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but "
                f"its image {self._images[index].name} is {width}x{height}"
            )
        stray = mask[(mask >= len(self.classes)) & (mask != IGNORE)]
        if stray.size:
            raise InputError(
                f"{path} holds the label {stray[0]}: labels are 0..{len(self.classes) - 1} "
                f"({', '.join(self.classes[:2])}, ...) or 255"
            )
        return Sample(image.pixels, mask, image.mode)

    def files(self, index: int) -> tuple[Path, ...]:
        return self._images[index], self._masks[index]


def find_tree(root: str | Path) -> Path:
    """The VOC2012 folder at or below `root`; InputError naming the places looked at."""
    places = _places(root)
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    raise InputError(
        f"no VOC2012 tree at {places[0]} or {places[-1]} (a folder with JPEGImages in it): "
        "give its folder with --data.root, or fetch VOC2012 there with --data.download"
    )


def has_tree(root: str | Path) -> bool:
    """Whether there is a tree that `find_tree` finds."""
    return any((place / "JPEGImages").is_dir() for place in _places(root))


def _places(root: str | Path) -> list[Path]:
    folder = Path(root).expanduser()
    return [folder / "VOCdevkit" / "VOC2012", folder / "VOC2012", folder]


def download(root: str | Path) -> None:
    """Fetch VOC2012 train/val into `root`/VOCdevkit through torchvision, unless a tree is there."""
    from torchvision.datasets import VOCSegmentation

    if has_tree(root):
        return
    try:
        VOCSegmentation(str(root), year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"VOC2012 could not be downloaded ({error}): fetch VOCtrainval_11-May-2012.tar yourself, "
            f"unpack it in {root}, and leave --data.download out"
        ) from None


def _classes(folder: Path) -> tuple[str, ...]:
    listed = folder / "classes.txt"
    if not listed.is_file():
        return CLASSES
    names = tuple(_lines(listed))
    if len(set(names)) < len(names):
        raise InputError(f"{listed} names a class twice")
    if not 2 <= len(names) <= IGNORE:
        raise InputError(f"{listed} names {len(names)} classes: it must name 2 to {IGNORE}, the background first")
    return names


def _names(folder: Path, split: str, held_out: str) -> list[str]:
    lists = folder / "ImageSets" / "Segmentation"
    if split == "train_aug":
        if held_out == "train_aug":
            raise InputError("data.val_split cannot be train_aug, which is everything that val does not list")
        augmented = folder / "SegmentationClassAug"
        if not augmented.is_dir():
            raise InputError(f"split train_aug reads the masks in {augmented}, which is missing")
        evaluated = set(_names(folder, held_out, held_out))
        names = sorted(path.stem for path in augmented.glob("*.png") if path.stem not in evaluated)
        source = augmented
    else:
        source = lists / f"{split}.txt"
        if not source.is_file():
            found = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
            raise InputError(f"there is no split {split!r}: {source} is missing; the splits there are: {found}")
        names = _lines(source)
    if not names:
        raise InputError(f"split {split} is empty: {source}")
    if wrong := next((name for name in names if not _is_plain(name)), None):
        raise InputError(
            f"{source} lists {wrong[:80]!r}: a name is that of a file in JPEGImages without .jpg, and has no ./ or ../"
        )
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{source} lists {twice} twice")
    return names


def _is_plain(name: str) -> bool:
    """Whether a name leads to a file below a folder, by one path alone."""
    short = all(len(part.encode()) <= LONGEST for part in name.split("/"))
    return short and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable UTF-8 text file: {error}") from None
