"""What kind of dataset a folder holds, by what lies in it."""

from pathlib import Path
from typing import NamedTuple

from px_seg.data.class_folders import tiny_imagenet_folder
from px_seg.data.voc import has_tree
from px_seg.errors import InputError
from px_seg.tasks import Classification, Segmentation, Task

OF_MASKS = {"masks", "labels", "annotations", "images", "imgs"}
"""Names that no class has."""

KNOWN = (
    "JPEGImages and SegmentationClass of VOC2012, or VOCdevkit; images, masks and classes.txt; or train and val with a "
    "folder a class"
)


class Recognised(NamedTuple):
    """A task, and the flags by which it finds its data."""

    task: type[Task]
    flags: tuple[str, ...]


def recognised(folder: Path) -> Recognised:
    """The dataset in a folder. InputError where it is none that is known."""
    # A name that begins with a dash would be taken for a flag.
    folder = folder.absolute() if str(folder).startswith("-") else folder
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give that of a dataset, or its --data.name and --data.root")
    if has_tree(folder):
        return Recognised(Segmentation, ("--data.name", "voc2012", "--data.root", str(folder)))
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        places = "--data.images", str(folder / "images"), "--data.masks", str(folder / "masks")
        listed = folder / "classes.txt"
        classes = ("--data.classes", str(listed)) if listed.is_file() else ()
        return Recognised(Segmentation, ("--data.name", "folders", *places, *classes))
    if tiny_imagenet_folder(folder) is not None and list(folder.rglob("val_annotations.txt")):
        return Recognised(Classification, ("--data.name", "tiny_imagenet", "--data.root", str(folder)))
    parts = {split: {one.name for one in folder.glob(f"{split}/*") if one.is_dir()} for split in ("train", "val")}
    if all(names & OF_MASKS for names in parts.values()):
        raise InputError(
            f"{folder} has images and masks in train and in val: move them to images/train, images/val, masks/train "
            "and masks/val"
        )
    if all(parts.values()):
        return Recognised(Classification, ("--data.name", "folder", "--data.root", str(folder)))
    raise InputError(f"{folder} holds no dataset that is known by its folders, which are {KNOWN}: give --data.name")
