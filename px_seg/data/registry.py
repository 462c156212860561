"""Datasets by the name that data.name takes: from a configuration to its training and its validation part."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from px_seg.config import ClassificationDataConfig, DataConfig, SegmentationDataConfig
from px_seg.data.base import ClassificationData, SegmentationData
from px_seg.data.class_folders import read_class_folders, tiny_imagenet, tiny_imagenet_folder
from px_seg.data.coco import read_coco
from px_seg.data.mask_folders import has_split, read_mask_folders
from px_seg.data.synthetic import Synthetic, SyntheticObjects
from px_seg.data.torchvision_sets import cifar, fetch_tiny_imagenet, unpack_imagenet
from px_seg.data.voc import VOC, download
from px_seg.errors import InputError

D = TypeVar("D", bound=DataConfig)
T = TypeVar("T", bound=SegmentationData | ClassificationData)


def _synthetic(config: SegmentationDataConfig) -> tuple[SegmentationData, SegmentationData]:
    if config.train_split == config.val_split:
        raise InputError(
            f"data.train_split and data.val_split are both {config.val_split}: make one of them train, the other val"
        )
    if config.channels != 3:
        raise InputError(f"synthetic images have 3 channels, got data.channels {config.channels}")
    train = Synthetic(config.train_split, config.train_images, config.size, config.seed)
    return train, Synthetic(config.val_split, config.val_images, config.size, config.seed)


def _voc2012(config: SegmentationDataConfig) -> tuple[SegmentationData, SegmentationData]:
    if config.download:
        download(config.root)
    train = VOC(config.root, config.train_split, config.val_split, config.channels)
    return train, VOC(config.root, config.val_split, channels=config.channels)


def _folders(config: SegmentationDataConfig) -> tuple[SegmentationData, SegmentationData]:
    if config.download:
        raise InputError("there is nothing to download for data.name folders: leave --data.download out")
    splits = config.train_split, config.val_split
    places = config.images, config.masks, config.classes
    return read_mask_folders(*places, splits, config.val_share, config.seed, config.channels)


def _coco(config: SegmentationDataConfig) -> tuple[SegmentationData, SegmentationData]:
    if config.download:
        raise InputError("there is nothing to download for data.name coco: leave --data.download out")
    return read_coco(config.images, config.masks, (config.train_split, config.val_split), config.channels)


def _objects(config: ClassificationDataConfig) -> tuple[ClassificationData, ClassificationData]:
    train = SyntheticObjects("train", config.train_images, config.size, config.seed, config.classes)
    return train, SyntheticObjects("val", config.val_images, config.size, config.seed, config.classes)


def _cifar(config: ClassificationDataConfig) -> tuple[ClassificationData, ClassificationData]:
    return cifar(config.name, config.root, config.classes, config.download)


def _tiny_imagenet(config: ClassificationDataConfig) -> tuple[ClassificationData, ClassificationData]:
    if config.download and tiny_imagenet_folder(config.root) is None:
        fetch_tiny_imagenet(config.root)
    return tiny_imagenet(config.root, config.classes)


def _imagenet(config: ClassificationDataConfig) -> tuple[ClassificationData, ClassificationData]:
    if config.download:
        raise InputError("ImageNet cannot be downloaded without an account: leave --data.download out")
    unpack_imagenet(config.root)
    return read_class_folders(config.root, config.classes)


def _folder(config: ClassificationDataConfig) -> tuple[ClassificationData, ClassificationData]:
    if config.download:
        raise InputError("there is nothing to download for data.name folder: leave --data.download out")
    return read_class_folders(config.root, config.classes)


SEGMENTATION: dict[str, Callable[[SegmentationDataConfig], tuple[SegmentationData, SegmentationData]]] = {
    "synthetic": _synthetic,
    "voc2012": _voc2012,
    "folders": _folders,
    "coco": _coco,
}
CLASSIFICATION: dict[str, Callable[[ClassificationDataConfig], tuple[ClassificationData, ClassificationData]]] = {
    "synthetic": _objects,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "tiny_imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "folder": _folder,
}


def load_also(config: SegmentationDataConfig) -> dict[str, SegmentationData]:
    """The lists that `also` names. Raises what `load` does, and InputError for one that is named twice."""
    return {split: load(SEGMENTATION, own)[1] for split, own in also_of(config).items()}


def also_of(config: SegmentationDataConfig) -> dict[str, SegmentationDataConfig]:
    """For each list that `also` names, what has it for validation. InputError for one that is named twice."""
    if twice := [split for split in config.also if [config.val_split, *config.also].count(split) > 1]:
        raise InputError(f"data.also names {twice[0]} twice, or beside data.val_split: once is enough")
    return {split: replace(config, val_split=split, also=[], download=False) for split in config.also}


def without_training(config: D, elsewhere: bool = False) -> D:
    """The configuration with its validation images in place of those of training, where these have a place of their own
    and may be missing: for what only evaluates.

    Of folders that are not a run's own, `elsewhere`, and have no such place, all images are for validation.
    """
    if not isinstance(config, SegmentationDataConfig):
        return config
    if elsewhere and config.name == "folders" and not has_split(config.images, config.val_split):
        return replace(config, train_split=".", val_split=".")
    own = config.name == "folders" and has_split(config.images, config.val_split)
    # What train_aug is depends on the other list.
    alone = own or config.name == "coco" or (config.name == "voc2012" and config.val_split != "train_aug")
    return replace(config, train_split=config.val_split) if alone else config


def load(readers: Mapping[str, Callable[[D], tuple[T, T]]], config: D) -> tuple[T, T]:
    """The train and val data that the configuration names, through `SEGMENTATION` or `CLASSIFICATION`.

    Raises InputError for an unknown name or split and for missing files; what is inside the
    files shows when they are read, which a task's `check_data` does for all.
    """
    parts = found(readers, config)
    if faults := list(dict.fromkeys(fault for part in parts for fault in part.faults)):
        more = f"; {len(faults) - 1} more are wrong, and px_seg check lists all" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}")
    return parts


def found(readers: Mapping[str, Callable[[D], tuple[T, T]]], config: D) -> tuple[T, T]:
    """The same without what is missing, which is among the `faults` of each part."""
    if config.name not in readers:
        raise InputError(f"there is no dataset {config.name!r}: choose one of {', '.join(readers)}")
    return readers[config.name](config)
