"""Datasets that torchvision downloads or unpacks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from px_seg.data.base import LabelledImage, chosen
from px_seg.data.images import Stored
from px_seg.errors import InputError, one_line
from px_seg.files import user_path

CIFAR: dict[str, type[datasets.CIFAR10]] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}

TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class ArrayImages:
    """Images that are held in memory: (N, H, W, 3) uint8 with N labels."""

    faults: Sequence[str] = ()
    channels = 3

    def __init__(
        self, images: np.ndarray, labels: Sequence[int], every: Sequence[str], classes: Sequence[str] | None, where: str
    ) -> None:
        self.classes = chosen(every, classes, where)
        new = {every.index(name): label for label, name in enumerate(self.classes)}
        kept = [place for place, label in enumerate(labels) if label in new]
        self.images, self.labels = images[kept], [new[labels[place]] for place in kept]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage(self.images[index], self.labels[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return ()

    def stored(self, index: int) -> Stored:
        return Stored.of(self.images[index], "RGB")


def cifar(name: str, root: str, classes: Sequence[str] | None, download: bool) -> tuple[ArrayImages, ArrayImages]:
    """Train and test of `cifar10` or `cifar100`, through torchvision, which verifies the files' checksums.

    Raises InputError when they are not in `root`, damaged, or cannot be downloaded.
    """
    reader = CIFAR[name]
    folder = user_path(root, "--data.root")
    try:
        sets = [reader(folder, train=train, download=download) for train in (True, False)]
    except Exception as error:
        # What a failed download raises depends on the network.
        reason = one_line(error, 160)
        if download:
            raise InputError(
                f"{name} could not be downloaded ({reason}): fetch {reader.url} yourself, unpack it in {folder}, and "
                "leave --data.download out"
            ) from error
        raise InputError(
            f"there is no complete {name} in {folder / reader.base_folder}: give the folder that holds it with "
            "--data.root, or fetch it there with --data.download"
        ) from error
    train, test = (
        ArrayImages(part.data, [int(label) for label in part.targets], part.classes, classes, name) for part in sets
    )
    return train, test


def fetch_tiny_imagenet(root: str) -> None:
    """Download and unpack Tiny-ImageNet in `root`. InputError, with the address, when that fails."""
    try:
        download_and_extract_archive(TINY_IMAGENET, user_path(root, "--data.root"))
    except Exception as error:
        reason = one_line(error, 160)
        raise InputError(
            f"Tiny-ImageNet could not be downloaded ({reason}): fetch {TINY_IMAGENET} yourself, unpack it in {root}, "
            "and leave --data.download out"
        ) from error


def unpack_imagenet(root: str) -> None:
    """Unpack ImageNet's archives in `root` to train and val, unless these are there.

    Raises InputError when neither the folders nor the archives are there.
    """
    folder = user_path(root, "--data.root")
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        return
    try:
        for split in ("train", "val"):
            datasets.ImageNet(folder, split)
    except ImportError as error:
        raise InputError(f"torchvision needs {error.name} to unpack ImageNet: pip install {error.name}") from None
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"there is no ImageNet in {folder}: --data.root must hold train/CLASS/ and val/CLASS/, or the archives as "
            f"distributed ({one_line(error, 160)})"
        ) from None
