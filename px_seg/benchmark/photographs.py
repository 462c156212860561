"""Photographs that benchmarks prune and judge by."""

import torch
from torch import Tensor

from px_seg.data.transforms import centre_crop_to_stride
from px_seg.data.voc import VOC
from px_seg.errors import InputError
from px_seg.models.normalisations import Normalisation
from px_seg.tasks.base import spread

STRIDE = 32


def read_photographs(
    root: str, split: str, count: int, side: int, batch_size: int, normalisation: Normalisation
) -> list[Tensor]:
    """Batches (N, 3, side, side) of `count` images of a split of a dataset laid out like VOC2012, spread over it.

    Raises InputError where it has fewer.
    """
    data, transform = VOC(root, split), centre_crop_to_stride(side, STRIDE, normalisation)
    if len(data) < count:
        raise InputError(f"{root} has {len(data)} images in {split}, fewer than the {count} asked for")
    return list(torch.stack([transform(data[index], 0)[0] for index in spread(len(data), count)]).split(batch_size))
