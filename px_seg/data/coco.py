"""Datasets whose annotations are in COCO's JSON: objects by polygons or runs of pixels, or panoptic segments.

What an object does not cover is background, class 0, and what no segment covers has no label; nor have crowds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from px_seg.data.base import IGNORE, Sample
from px_seg.data.images import mask_of, opened, photograph
from px_seg.errors import InputError, one_line
from px_seg.extras import check_extra, extra
from px_seg.files import parse_json, user_path

BACKGROUND = "background"


class Entry(NamedTuple):
    """One image of the list."""

    image: Path
    segments: Path | None
    """The picture of its panoptic segments; None where objects are outlined in the JSON."""
    height: int
    width: int
    regions: bytes
    """JSON: what is said of it. Objects of Python would be copied by every process that loads images."""


class Coco:
    """The images that one file of annotations lists. Images and pictures of segments that are missing are `faults`."""

    def __init__(
        self, file: Path, listed: "_Listed", entries: Sequence[Entry], faults: Sequence[str], channels: int = 3
    ) -> None:
        self.file, self.entries, self.faults, self.channels = file, list(entries), faults, channels
        self.labels = listed.labels
        self.classes = listed.classes
        self.encoding = f"COCO's categories {listed.labels}"

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Raises InputError, naming the image, for one that is damaged or does not fit what is said of it."""
        entry = self.entries[index]
        image = photograph(entry.image, self.channels)
        labels = self._outlined(entry) if entry.segments is None else self._segmented(entry, entry.segments)
        mask = mask_of(image, Image.fromarray(labels), f"{entry.image} and its annotations in {self.file}")
        height, width = image.pixels.shape[:2]
        if mask.shape != (height, width):
            raise InputError(
                f"{entry.image} is {width}x{height} pixels, and its annotations in {self.file} are of "
                f"{labels.shape[1]}x{labels.shape[0]}"
            )
        return Sample(image.pixels, mask, image.mode)

    def files(self, index: int) -> tuple[Path, ...]:
        entry = self.entries[index]
        return (entry.image, self.file) if entry.segments is None else (entry.image, entry.segments, self.file)

    def _outlined(self, entry: Entry) -> np.ndarray:
        """Labels (H, W) uint8, smaller objects over larger ones, and these over crowds."""
        labels = np.zeros((entry.height, entry.width), np.uint8)
        drawn = []
        for about in json.loads(entry.regions):
            try:
                inside = _region(about["segmentation"], entry.height, entry.width)
            except Exception as error:
                # pycocotools says what is wrong in whatever way its C code does.
                raise InputError(
                    f"{self.file}: the outline of annotation {about.get('id')} of {entry.image.name} is none "
                    f"({one_line(error, 120)})"
                ) from None
            crowd = bool(about.get("iscrowd"))
            label = IGNORE if crowd else self.labels[about["category_id"]]
            drawn.append((not crowd, -int(inside.sum()), label, inside))
        for _, _, label, inside in sorted(drawn, key=lambda one: one[:2]):
            labels[inside] = label
        return labels

    def _segmented(self, entry: Entry, path: Path) -> np.ndarray:
        """Labels (H, W) uint8 of a picture of panoptic segments, whose numbers are its colours."""
        red, green, blue = np.moveaxis(np.asarray(opened(path).convert("RGB"), np.int64), -1, 0)
        numbers = red + 256 * green + 256**2 * blue
        segments = {
            about["id"]: IGNORE if about.get("iscrowd") else self.labels[about["category_id"]]
            for about in json.loads(entry.regions)
        }
        known = np.array(sorted({0, *segments}))
        places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
        if (stray := numbers[known[places] != numbers]).size:
            raise InputError(f"{path} holds the segment {stray[0]}, of which {self.file} says nothing")
        return np.array([segments.get(number, IGNORE) for number in known.tolist()], np.uint8)[places]


def read_coco(images: str | None, masks: str | None, splits: tuple[str, str], channels: int = 3) -> tuple[Coco, Coco]:
    """Training and validation part, from two files of annotations, `splits`.

    `images` is the folder of the images, at any depth, and `masks` that of the pictures of panoptic segments. Raises
    InputError for what is no such file, for categories that differ, and without pycocotools.
    """
    check_extra("pycocotools", "coco")
    if images is None or not user_path(images, "--data.images").is_dir():
        raise InputError(f"data.name coco needs --data.images, the folder of the images, got {images}")
    folders = _Folders(user_path(images, "--data.images"), None if masks is None else user_path(masks, "--data.masks"))
    train, val = (_read(split, key, folders, channels) for split, key in zip(splits, ("train", "val"), strict=True))
    if train.labels != val.labels or train.classes != val.classes:
        raise InputError(f"{train.file} and {val.file} have different categories")
    return train, val


class _Folders:
    """Where the files are that annotations name: below a folder, whichever of its folders they are in."""

    def __init__(self, images: Path, masks: Path | None) -> None:
        self.images, self.masks = images, masks
        self._known: dict[Path, dict[str, list[Path]]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """A file by its name; None where there is none. InputError for a name that leads elsewhere, or to several."""
        parts = PurePosixPath(name)
        if not name or parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise InputError(f"{name[:80]!r} is no file's name below {folder}")
        if (folder / name).is_file():
            return folder / name
        if folder not in self._known:
            known = self._known[folder] = {}
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    known.setdefault(path.name, []).append(path)
        found = self._known[folder].get(parts.name, [])
        if len(found) > 1:
            raise InputError(f"{name} may be {found[0]} or {found[1]}: name the folder above it as --data.images")
        return next(iter(found), None)


class _Listed(NamedTuple):
    classes: tuple[str, ...]
    labels: Mapping[int, int]
    """Class index of every category by its number."""


def _read(split: str, key: str, folders: _Folders, channels: int) -> Coco:
    if not split.endswith(".json"):
        raise InputError(f"data.name coco needs --data.{key}_split, a JSON file of annotations, got {split}")
    file = user_path(split, f"--data.{key}_split")
    try:
        held = parse_json(file.read_bytes())
        listed = _categories(held["categories"])
        by_image: dict[Any, list[dict[str, Any]]] = {about["id"]: [] for about in held["images"]}
        panoptic = any("segments_info" in about for about in held["annotations"])
        for about in held["annotations"]:
            by_image[about["image_id"]].append(about)
        for about in held["annotations"]:
            for one in about["segments_info"] if panoptic else [about]:
                if one["category_id"] not in listed.labels or "id" not in one:
                    raise ValueError(f"annotation {one.get('id')} is of no category that is listed")
        named = [(str(one["file_name"]), int(one["height"]), int(one["width"]), one["id"]) for one in held["images"]]
    except OSError as error:
        raise InputError(f"--data.{key}_split {file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{file}: {error}") from None
        raise InputError(f"{file} is not in COCO's format: {type(error).__name__} {one_line(error, 120)}") from None
    if panoptic and folders.masks is None:
        raise InputError(f"{file} is of panoptic segments: give the folder of their pictures, --data.masks")
    entries: list[Entry] = []
    faults: list[str] = []
    for name, height, width, number in named:
        entry = _entry(file, folders, by_image[number], panoptic, name, (height, width))
        entries += [entry] if isinstance(entry, Entry) else []
        faults += [entry] if isinstance(entry, str) else []
    if not named:
        raise InputError(f"{file} lists no images")
    return Coco(file, listed, entries, faults, channels)


def _entry(
    file: Path, folders: _Folders, said: Sequence[Mapping[str, Any]], panoptic: bool, name: str, sides: tuple[int, int]
) -> Entry | str:
    """An image of the list, or what is missing of it."""
    image = folders.find(folders.images, name)
    if image is None:
        return f"{file} lists an image that is missing: there is no {name} in {folders.images}"
    if not panoptic:
        kept = ({key: one.get(key) for key in ("id", "category_id", "iscrowd", "segmentation")} for one in said)
        return Entry(image, None, *sides, json.dumps(list(kept)).encode())
    if not said or folders.masks is None:
        return f"{file} says nothing of the segments of {name}"
    segments = folders.find(folders.masks, str(said[0].get("file_name", "")))
    if segments is None:
        return f"the segments of {name} are missing: there is no {said[0].get('file_name')} in {folders.masks}"
    return Entry(image, segments, *sides, json.dumps(said[0]["segments_info"]).encode())


def _categories(held: Sequence[Mapping[str, Any]]) -> _Listed:
    """The classes, in the order of the categories' numbers after the background."""
    names = {int(about["id"]): str(about["name"]) for about in held}
    if len(names) < len(held) or len(set(names.values())) < len(names) or not names:
        raise InputError("the categories of COCO's annotations need each a number and a name of its own")
    if len(names) > IGNORE - 1:
        raise InputError(f"there are {len(names)} categories, and at most {IGNORE - 1} fit into a byte a pixel")
    if BACKGROUND in names.values():
        raise InputError(f"a category is called {BACKGROUND}, which is what no object covers: rename it")
    labels = {number: label for label, number in enumerate(sorted(names), 1)}
    return _Listed((BACKGROUND, *(names[number] for number in labels)), labels)


def _region(outline: Any, height: int, width: int) -> np.ndarray:
    """Where an object is, (H, W) bool, by polygons or runs of pixels."""
    masks = extra("pycocotools.mask", "coco")
    if isinstance(outline, list):
        if not outline or any(len(polygon) < 6 or len(polygon) % 2 for polygon in outline):
            raise ValueError("a polygon needs three points at least")
        return masks.decode(masks.merge(masks.frPyObjects(outline, height, width))).astype(bool)
    if [*outline["size"]] != [height, width]:
        raise ValueError(f"it is of {outline['size'][1]}x{outline['size'][0]} pixels")
    runs = masks.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
    return masks.decode(runs).astype(bool)
