"""How fast our loader makes training images ready, beside the same in torchvision's v2 transforms and in Pillow.

All read the images and masks of a VOC tree, scale them at random by 0.5 to 2, pad what is too small evenly, crop a
square, mirror half of them and normalise. Each draws its own numbers, from the same distributions. OpenCV, which ours
scales by, and torchvision as it is told here take the nearest pixels of a larger image; Pillow takes all.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from px_seg.cost import timings
from px_seg.data.base import IGNORE
from px_seg.data.loaders import Shuffle, Transformed, training_loader
from px_seg.data.memory import InMemory, sample_sizes
from px_seg.data.normalisation import IMAGENET
from px_seg.data.survey import survey_masks
from px_seg.data.transforms import Transform, training
from px_seg.data.voc import VOC
from px_seg.errors import InputError

SCALE = (0.5, 2.0)

Pair = tuple[Tensor, Tensor]
"""An image (3, H, W) float32 and its labels (H, W) int64."""


@dataclass(frozen=True)
class Case:
    """What is loaded.

    Args:
        root: folder of a VOC tree
        size: side of the crops in pixels
        batch_size: images of a batch
        workers: numbers of processes that load
        turns: in which the loaders take turns, after one to warm up
        threads: CPU threads of the process that trains, in which 0 workers load
    """

    root: str = "data/photo"
    size: int = 513
    batch_size: int = 8
    workers: list[int] = field(default_factory=lambda: [0, 1, 2])
    turns: int = 5
    threads: int = 1


def report_loading(case: Case) -> None:
    """Print images a second of every loader, and ours over each, as a Markdown table. InputError for a bad case."""
    if min(case.size, case.batch_size, case.turns, case.threads) < 1 or not case.workers or min(case.workers) < 0:
        raise InputError("--size, --batch_size, --turns and --threads must be at least 1, and --workers at least 0")
    torch.set_num_threads(case.threads)
    cv2.setNumThreads(case.threads)
    data = VOC(case.root, "train")
    if len(data) < case.batch_size:
        raise InputError(f"{case.root} has {len(data)} training images, which fill no batch of {case.batch_size}")
    ours = training(case.size, SCALE, 1, IMAGENET)
    kept = InMemory(data, sample_sizes(survey_masks(data, "training images")), "training images")
    sets: dict[str, Callable[[int], DataLoader[Pair]]] = {
        "px_seg": lambda workers: training_loader(Transformed(data, ours), case.batch_size, 0, workers),
        "px_seg, data.cache": lambda workers: training_loader(Transformed(kept, ours), case.batch_size, 0, workers),
        "torchvision v2": lambda workers: _plain(WithTorchvision(data, case.size), case.batch_size, workers),
        "Pillow": lambda workers: _plain(WithPillow(data, case.size), case.batch_size, workers),
    }
    whole = len(data) // case.batch_size * case.batch_size
    print(
        f"{whole} images, median {_median_sides(data)}, crops of {case.size}, batches of {case.batch_size}, CPU "
        f"threads: {case.threads}\n"
    )
    print("| images a second with | " + " | ".join(f"{number} workers" for number in case.workers) + " |")
    print("|---" * (len(case.workers) + 1) + "|")
    rates: dict[str, list[float]] = {name: [] for name in sets}
    for workers in case.workers:
        epochs = {name: partial(_epoch, make(workers), case, ours) for name, make in sets.items()}
        for name, own in timings(torch.device("cpu"), epochs, case.turns).items():
            rates[name].append(whole / statistics.median(own))
    for name, own in rates.items():
        ratios = (rate / base for rate, base in zip(own, rates["Pillow"], strict=True))
        cells = (f"{rate:.0f} ({ratio:.2f})" for rate, ratio in zip(own, ratios, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nIn parentheses: over Pillow's.")


def _epoch(loader: DataLoader[Pair], case: Case, ours: Transform) -> None:
    """Load all batches, and unpack those of our loader."""
    packed = isinstance(loader.sampler, Shuffle)
    if isinstance(loader.sampler, Shuffle):
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
    for batch in loader:
        images, labels = ours.unpacked(*batch) if packed else batch
        if images.shape != (case.batch_size, 3, case.size, case.size) or labels.dtype != torch.int64:
            raise RuntimeError(f"a batch is {tuple(images.shape)}, {labels.dtype}")


def _plain(data: Dataset[Pair], batch_size: int, workers: int) -> DataLoader[Pair]:
    return DataLoader(
        data, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def _median_sides(data: VOC) -> str:
    sides = []
    for index in range(len(data)):
        with Image.open(data.files(index)[0]) as image:
            sides.append(image.size)
    width, height = (statistics.median_low(side) for side in zip(*sides, strict=True))
    return f"{width}x{height}"


class WithPillow(Dataset[Pair]):
    """As one writes it with Pillow and NumPy."""

    def __init__(self, data: VOC, size: int) -> None:
        self.files, self.size = [data.files(index) for index in range(len(data))], size
        self.mean, self.std = (np.array(values, np.float32) for values in IMAGENET)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        image, mask = self._read(index)
        draw = np.random.default_rng()
        factor, size = draw.uniform(*SCALE), self.size
        sides = round(factor * image.width), round(factor * image.height)
        image = image.resize(sides, Image.Resampling.BILINEAR)
        mask = mask.resize(sides, Image.Resampling.NEAREST)
        wide, high = max(sides[0], size), max(sides[1], size)
        if (wide, high) != sides:
            place = (wide - sides[0]) // 2, (high - sides[1]) // 2
            fill = tuple(round(255 * mean) for mean in IMAGENET.mean)
            padded, padded_mask = Image.new("RGB", (wide, high), fill), Image.new("L", (wide, high), IGNORE)
            padded.paste(image, place)
            padded_mask.paste(mask, place)
            image, mask = padded, padded_mask
        left, top = int(draw.integers(wide - size + 1)), int(draw.integers(high - size + 1))
        box = left, top, left + size, top + size
        image, mask = image.crop(box), mask.crop(box)
        if draw.random() < 0.5:
            image, mask = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (image, mask))
        values = (np.asarray(image, np.float32) / 255 - self.mean) / self.std
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return pixels, torch.from_numpy(np.asarray(mask, np.int64))

    def _read(self, index: int) -> tuple[Image.Image, Image.Image]:
        path, labels = self.files[index]
        mask = Image.open(labels)
        # The labels of a palette image, not its colours.
        return Image.open(path).convert("RGB"), Image.fromarray(np.asarray(mask))


class WithTorchvision(WithPillow):
    """As one writes it with torchvision's v2 transforms."""

    def __init__(self, data: VOC, size: int) -> None:
        super().__init__(data, size)
        self.after = v2.Compose(
            [
                v2.RandomCrop(size),
                v2.RandomHorizontalFlip(),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
                v2.Normalize(*IMAGENET),
            ]
        )

    def __getitem__(self, index: int) -> Pair:
        picture, labels = self._read(index)
        image, mask = tv_tensors.Image(v2.functional.pil_to_tensor(picture)), tv_tensors.Mask(np.array(labels)[None])
        factor = torch.empty(()).uniform_(*SCALE).item()
        sides = [round(factor * side) for side in image.shape[-2:]]
        wide, high = (max(0, self.size - side) for side in (sides[1], sides[0]))
        around = [wide // 2, high // 2, wide - wide // 2, high - high // 2]
        resized = v2.functional.resize(image, sides, antialias=False), v2.functional.resize(mask, sides)
        fills = [round(255 * mean) for mean in IMAGENET.mean], IGNORE
        padded = [v2.functional.pad(one, around, fill=fill) for one, fill in zip(resized, fills, strict=True)]
        done, marked = self.after(*padded)
        return done.as_subclass(Tensor), marked[0].as_subclass(Tensor)
