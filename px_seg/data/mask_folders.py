"""Images and masks in two folders, as one has them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from px_seg.data.base import Sample
from px_seg.data.images import ARRAY, mask_of, opened, photograph
from px_seg.data.mask_codes import MaskCode, read_classes
from px_seg.errors import InputError
from px_seg.files import user_path

SUFFIXES = (*IMG_EXTENSIONS, ".tiff", ".gif", ARRAY)

SHARED = ("train", "val")
"""The splits that are drawn where there are no folders and no lists of these names."""


class Pairs(NamedTuple):
    """Images with their masks, and what is missing, a line for each file."""

    found: Sequence[tuple[Path, Path]]
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()
    """What users may not expect, in lines."""


class MaskFolders:
    """Images, each with the mask of its name in another folder."""

    def __init__(self, pairs: Pairs, code: MaskCode, channels: int = 3) -> None:
        self.pairs, self.faults, self.channels = list(pairs.found), pairs.faults, channels
        self.notes = [str(code), *pairs.notes]
        self.code, self.classes = code, code.classes
        self.encoding = f"{sorted(code.labels.items())}{' in colours' if code.coloured else ''}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Raises InputError, naming the file, for one that is damaged or does not fit."""
        file, path = self.pairs[index]
        image = photograph(file, self.channels)
        mask = mask_of(image, self.code.prepared(opened(path)), f"{file} and {path}")
        height, width = image.pixels.shape[:2]
        if mask.shape[:2] != (height, width):
            raise InputError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {file} is {width}x{height}"
            )
        return Sample(image.pixels, self.code.decoded(mask, path), image.mode)

    def files(self, index: int) -> tuple[Path, ...]:
        return self.pairs[index]


def read_mask_folders(
    images: str | None,
    masks: str | None,
    classes: str | None,
    splits: tuple[str, str],
    share: float,
    seed: int,
    channels: int = 3,
) -> tuple[MaskFolders, MaskFolders]:
    """Training and validation part of the images in one folder, at any depth, whose masks have their names in another.

    `classes` is the file for `read_classes`. Each of the `splits` is a folder inside both, or a text file of names;
    where there is a list for one of `train` and `val`, the other is the rest, and where there is neither, a `share` of
    the images, drawn by `seed`, is validation. Images and masks that are missing are the `faults` of the part. Raises
    InputError for folders and lists that are missing or do not fit.
    """
    places = _given("images", images), _given("masks", masks)
    code = read_classes(_given("classes", classes))
    for flag, place in zip(("images", "masks"), places, strict=True):
        if not place.is_dir():
            raise InputError(f"--data.{flag} {place} is no folder")
    found = [_split(split, *places) for split in splits]
    for own, other in ((0, 1), (1, 0)):
        # Beside a list, the rest.
        listed = found[other]
        if found[own] is None and listed is not None and splits[other].endswith(".txt"):
            rest = _pairs(*places)
            taken = set(listed.found)
            found[own] = Pairs([pair for pair in rest.found if pair not in taken], rest.faults)
    if found[0] is None and found[1] is None:
        if not 0 < share < 1:
            raise InputError(f"data.val_share must be above 0 and below 1, got {share}")
        return _both(_drawn(_pairs(*places), share, seed), code, channels)
    for split, pairs in zip(splits, found, strict=True):
        if pairs is None:
            raise InputError(
                f"there is no split {split!r}: no folder {places[0] / split}, and no text file of that name"
            )
    return _both([pairs for pairs in found if pairs is not None], code, channels)


def _both(parts: Sequence[Pairs], code: MaskCode, channels: int) -> tuple[MaskFolders, MaskFolders]:
    train, val = (MaskFolders(pairs, code, channels) for pairs in parts)
    return train, val


def has_split(images: str | None, split: str) -> bool:
    """Whether a split is a list or a folder, and not drawn."""
    return split.endswith(".txt") or (images is not None and user_path(Path(images) / split, "--data.images").is_dir())


def _given(key: str, path: str | None) -> Path:
    if path is None:
        raise InputError(f"data.name folders needs --data.{key}: folders of images and of masks, and a file of classes")
    return user_path(path, f"--data.{key}")


def _split(split: str, images: Path, masks: Path) -> Pairs | None:
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


def _listed(file: Path, images: Path, masks: Path) -> Pairs:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable UTF-8 text file: {error}") from None
    if not names:
        raise InputError(f"{file} lists nothing")
    every, labelled = _by_stem(images), _by_stem(masks)
    stems = {name: name if name in every else str(PurePosixPath(name).with_suffix("")) for name in names}
    unknown = [name for name, stem in stems.items() if stem not in every]
    wanted = [stem for stem in stems.values() if stem in every]
    again = [stem for stem, count in Counter(stems[name] for name in names).items() if count > 1]
    pairs = _matched(dict.fromkeys(wanted), every, labelled, masks)
    faults = [f"{file} lists {name[:80]!r}, of which there is no image in {images}" for name in unknown]
    faults += [f"{file} lists an image twice, {name[:80]}" for name in again]
    return Pairs(pairs.found, [*faults, *pairs.faults])


def _pairs(images: Path, masks: Path) -> Pairs:
    """Every image below a folder with the mask of its name, sorted."""
    every, labelled = _by_stem(images), _by_stem(masks)
    if not every:
        raise InputError(f"there is no image in {images} (JPEG, PNG, TIFF and the like)")
    alone = sorted(labelled.keys() - every.keys())
    notes = [f"{len(alone)} masks have no image in {images}, such as {labelled[alone[0]]}"] if alone else []
    return _matched(sorted(every), every, labelled, masks)._replace(notes=notes)


def _matched(stems: Iterable[str], images: Mapping[str, Path], labelled: Mapping[str, Path], masks: Path) -> Pairs:
    """The images of these names with their masks."""
    found: list[tuple[Path, Path]] = []
    faults: list[str] = []
    for stem in stems:
        if stem in labelled:
            found.append((images[stem], labelled[stem]))
            continue
        # Among many thousands the search for each would take minutes.
        near = None if faults else next((name for name in sorted(labelled) if stem in name or name in stem), None)
        hint = f" (there is {labelled[near]}: a mask must have its image's name, but for the ending)" if near else ""
        faults.append(f"{images[stem]} has no mask in {masks}{hint}")
    return Pairs(found, faults)


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


def _drawn(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Two parts, and what is missing with the first."""
    every, faults, notes = pairs
    if len(every) < 2:
        raise InputError(
            "; ".join([*faults[:1], f"there are masks for {len(every)} images: training and validation need one each"])
        )
    count = min(max(1, round(share * len(every))), len(every) - 1)
    order = np.random.default_rng(seed).permutation(len(every))
    train, val = ([every[place] for place in sorted(part)] for part in (order[count:].tolist(), order[:count].tolist()))
    return Pairs(train, faults, notes), Pairs(val)
