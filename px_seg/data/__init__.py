"""Datasets by name, transforms and loaders."""

import warnings
from collections.abc import Callable

from px_seg.config import DataConfig
from px_seg.data.base import IGNORE, Sample, SegmentationData
from px_seg.data.synthetic import Synthetic
from px_seg.data.voc import VOC, download
from px_seg.errors import InputError

__all__ = ["DATASETS", "IGNORE", "VOC", "Sample", "SegmentationData", "Synthetic", "load"]

Splits = tuple[SegmentationData, SegmentationData]


def _synthetic(config: DataConfig) -> Splits:
    if config.train_split == config.val_split:
        raise InputError(f"data.train_split and data.val_split are both {config.val_split}: synthetic data has two")
    train = Synthetic(config.train_split, config.train_images, config.size, config.seed)
    return train, Synthetic(config.val_split, config.val_images, config.size, config.seed)


def _voc2012(config: DataConfig) -> Splits:
    if config.download:
        download(config.root)
    train, val = VOC(config.root, config.train_split, held_out=config.val_split), VOC(config.root, config.val_split)
    if shared := set(train.names) & set(val.names):
        warnings.warn(
            f"{len(shared)} images are in both {train.split} and {val.split}: the scores will flatter", stacklevel=2
        )
    return train, val


DATASETS: dict[str, Callable[[DataConfig], Splits]] = {"synthetic": _synthetic, "voc2012": _voc2012}


def load(config: DataConfig) -> Splits:
    """The train and val data that the configuration names.

    Raises InputError for an unknown name or split and for missing files; what is inside the
    files shows when they are read, which `px_seg.data.loaders.check` does for all.
    """
    if config.name not in DATASETS:
        raise InputError(f"there is no dataset {config.name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[config.name](config)
