"""The networks of finished runs side by side on one picture."""

import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from px_seg.cost import timings
from px_seg.deploy.card import Card, export_folder
from px_seg.deploy.exported import files_of
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.predicting import Segmenter, Views
from px_seg.deploy.run_network import saved_network, smallest
from px_seg.models import is_compacted


class Contender(NamedTuple):
    """One network of a page."""

    segmenter: Segmenter
    bytes: int
    """Of its weights, for an exported file of its file or files."""


class Seen(NamedTuple):
    """What a network makes of a picture."""

    labels: np.ndarray
    """(H, W) uint8."""
    milliseconds: float
    """From pixels to labels, the median of all repeats."""
    agreement: float
    """Share of the pixels that have the label that the first network gives them."""


def contenders(folder: Path, card: Card, device: str) -> tuple[dict[str, Contender], list[str]]:
    """A run's networks by name, and lines on what there is to know of them.

    As trained, dense or with zeros for pruned weights; compacted; and what was exported, which runs on the CPU.
    Raises what `smallest` does.
    """
    small = smallest(folder, card)
    networks = {small.kind: small.model}
    if small.kind == "compacted" and not is_compacted(folder):
        networks = {"masked": saved_network(folder, card), **networks}
    found = {name: Contender(Segmenter.of(one.to(device)), _bytes(one)) for name, one in networks.items()}
    files, left = ExportFolder(export_folder(folder)).opened()
    for kind, one in files.items():
        found[kind] = Contender(Segmenter.of(one), sum(part.stat().st_size for part in files_of(one.file)))
    missing = [] if "int8" in files else [f"px_seg export {folder} --format int8 puts a quantised network beside these"]
    return found, [*small.said, *(f"left out: {problem}" for problem in left), *missing]


def compare(networks: Mapping[str, Contender], image: np.ndarray, repeats: int) -> dict[str, Seen]:
    """What each network makes of an image, (H, W, 3) uint8 RGB, measured in turns.

    Raises what `Segmenter.labels` does.
    """
    works = {name: partial(one.segmenter.labels, image[None], Views()) for name, one in networks.items()}
    labels = {name: work()[0] for name, work in works.items()}
    devices = [one.segmenter.device for one in networks.values()]
    device = next((one for one in devices if one.type == "cuda"), torch.device("cpu"))
    spent = timings(device, works, repeats)
    first = next(iter(labels.values()))
    return {
        name: Seen(labels[name], 1000 * statistics.median(spent[name]), float((labels[name] == first).mean()))
        for name in networks
    }


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """The image, made smaller where its longer side has more pixels than `side`."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
