"""Images and masks in two folders, as one has them."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from px_seg.data.base import Sample
from px_seg.data.images import mask_of, opened, photograph
from px_seg.data.mask_codes import MaskCode, read_classes
from px_seg.errors import InputError
from px_seg.files import user_path

SUFFIXES = (*IMG_EXTENSIONS, ".tiff", ".gif")

SHARED = ("train", "val")
"""The splits that are drawn where there are no folders and no lists of these names."""


class MaskFolders:
    """Images, each with the mask of its name in another folder."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], code: MaskCode) -> None:
        self.pairs, self.code, self.classes = list(pairs), code, code.classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Raises InputError, naming the file, for one that is damaged or does not fit."""
        file, path = self.pairs[index]
        image = photograph(file)
        mask = mask_of(image, self.code.prepared(opened(path)), f"{file} and {path}")
        height, width = image.pixels.shape[:2]
        if mask.shape[:2] != (height, width):
            raise InputError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {file} is {width}x{height}"
            )
        return Sample(image.pixels, self.code.decoded(mask, path))

    def files(self, index: int) -> tuple[Path, ...]:
        return self.pairs[index]


def read_mask_folders(
    images: str | None, masks: str | None, classes: str | None, splits: tuple[str, str], share: float, seed: int
) -> tuple[MaskFolders, MaskFolders]:
    """Training and validation part of the images in one folder, at any depth, whose masks have their names in another.

    `classes` is the file for `read_classes`. Each of the `splits` is a folder inside both, or a text file of names;
    where there is neither for `train` and `val`, a `share` of the images, drawn by `seed`, is validation. Raises
    InputError for what is missing or does not fit.
    """
    places = _given("images", images), _given("masks", masks)
    code = read_classes(_given("classes", classes))
    for flag, place in zip(("images", "masks"), places, strict=True):
        if not place.is_dir():
            raise InputError(f"--data.{flag} {place} is no folder")
    found = [_split(split, *places) for split in splits]
    if found[0] is None and found[1] is None:
        if not 0 < share < 1:
            raise InputError(f"data.val_share must be above 0 and below 1, got {share}")
        return _drawn(_pairs(*places), share, seed, code)
    for split, pairs in zip(splits, found, strict=True):
        if pairs is None:
            raise InputError(
                f"there is no split {split!r}: no folder {places[0] / split}, and no text file of that name"
            )
    train, val = (MaskFolders(pairs, code) for pairs in found if pairs is not None)
    return train, val


def _given(key: str, path: str | None) -> Path:
    if path is None:
        raise InputError(f"data.name folders needs --data.{key}: folders of images and of masks, and a file of classes")
    return user_path(path, f"--data.{key}")


def _split(split: str, images: Path, masks: Path) -> list[tuple[Path, Path]] | None:
    """The pairs of a split that has its folder or list; None for one that is to be drawn."""
    if split.endswith(".txt"):
        return _listed(user_path(split, "the list of a split"), images, masks)
    if split and (images / split).is_dir():
        if not (masks / split).is_dir():
            raise InputError(f"there is a folder {images / split}, and no {masks / split} with its masks")
        return _pairs(images / split, masks / split)
    if split in SHARED:
        return None
    raise InputError(f"there is no split {split!r}: no folder {images / split}, and it is no list, NAME.txt")


def _listed(file: Path, images: Path, masks: Path) -> list[tuple[Path, Path]]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable UTF-8 text file: {error}") from None
    every = {_stem(image, images): (image, mask) for image, mask in _pairs(images, masks, names)}
    found = []
    for name in names:
        pair = every.get(name) or every.get(str(PurePosixPath(name).with_suffix("")))
        if pair is None:
            raise InputError(f"{file} lists {name[:80]!r}, of which there is no image in {images}")
        found.append(pair)
    if len(set(found)) < len(found) or not found:
        raise InputError(f"{file} lists {'nothing' if not found else 'an image twice'}")
    return found


def _pairs(images: Path, masks: Path, wanted: Sequence[str] | None = None) -> list[tuple[Path, Path]]:
    """Every image below a folder with the mask of its name, sorted; of the `wanted` names alone, if any are."""
    every, labelled = _by_stem(images), _by_stem(masks)
    if not every:
        raise InputError(f"there is no image in {images} (JPEG, PNG, TIFF and the like)")
    asked = set(every) if wanted is None else {*wanted, *(str(PurePosixPath(name).with_suffix("")) for name in wanted)}
    chosen = [stem for stem in every if stem in asked]
    if missing := [stem for stem in chosen if stem not in labelled]:
        near = next((name for name in sorted(labelled) if missing[0] in name or name in missing[0]), None)
        hint = f" (there is {labelled[near]}: a mask must have its image's name, but for the ending)" if near else ""
        raise InputError(
            f"{len(missing)} of {len(chosen)} images have no mask in {masks}, such as {every[missing[0]]}{hint}"
        )
    return [(every[stem], labelled[stem]) for stem in sorted(chosen)]


def _by_stem(folder: Path) -> dict[str, Path]:
    """The images below a folder by their names in it without endings. InputError for two of one name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not has_file_allowed_extension(path.name, SUFFIXES) or path.is_dir():
            continue
        other = found.setdefault(_stem(path, folder), path)
        if other is not path:
            raise InputError(f"{other} and {path} have one name: which of them is meant is not clear, so move one away")
    return found


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _drawn(
    pairs: Sequence[tuple[Path, Path]], share: float, seed: int, code: MaskCode
) -> tuple[MaskFolders, MaskFolders]:
    if len(pairs) < 2:
        raise InputError(f"there is one image alone, {pairs[0][0]}: training and validation need one each")
    count = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    order = np.random.default_rng(seed).permutation(len(pairs))
    parts = sorted(order[count:].tolist()), sorted(order[:count].tolist())
    train, val = (MaskFolders([pairs[place] for place in part], code) for part in parts)
    return train, val
