"""How many weights each layer keeps: which weights compete with which.

A ranking is a function of the scores, the live places and how many to keep, and returns what is
kept, as `px_seg.pruning.selection.top` does, which ranks all layers together.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from px_seg.errors import InputError
from px_seg.pruning.selection import top

Ranking: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], int], list[Tensor]]


def uniform(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
    """The same density in every layer, weights ranked inside it."""
    total = sum(score.numel() for score in scores)
    return _by_layer(scores, live, [count * score.numel() / total for score in scores], count)


def erk(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
    """Densities by Erdos-Renyi-Kernel (Evci et al., ICML 2020), weights ranked inside the layers.

    The density of a weight tensor is proportional to the sum of its dimensions over their product:
    (in + out + height + width) / (in * out * height * width). Where that exceeds 1 the layer
    stays dense, and the others share the rest.
    """
    return _by_layer(scores, live, erk_counts([score.shape for score in scores], count), count)


RANKINGS: dict[str, Ranking] = {"global": top, "uniform": uniform, "erk": erk}


def ranking(name: str) -> Ranking:
    """The ranking of that name. InputError when there is none."""
    if name not in list(RANKINGS):
        raise InputError(f"there is no ranking {name!r}: choose one of {', '.join(RANKINGS)}")
    return RANKINGS[name]


def erk_counts(shapes: Sequence[Sequence[int]], count: int) -> list[float]:
    """How many weights, before rounding, tensors of these shapes keep of `count` in all."""
    sizes, sums = [math.prod(shape) for shape in shapes], [sum(shape) for shape in shapes]
    dense: set[int] = set()
    while len(dense) < len(sizes):
        open_layers = [place for place in range(len(sizes)) if place not in dense]
        left = count - sum(sizes[place] for place in dense)
        scale = left / sum(sums[place] for place in open_layers)
        over = {place for place in open_layers if scale * sums[place] > sizes[place]}
        if not over:
            return [float(size) if place in dense else scale * sums[place] for place, size in enumerate(sizes)]
        dense |= over
    return [float(size) for size in sizes]


def _by_layer(scores: Sequence[Tensor], live: Sequence[Tensor], wanted: Sequence[float], count: int) -> list[Tensor]:
    counts = _whole(wanted, [int(mask.count_nonzero()) for mask in live], count)
    return [top([score], [mask], n)[0] for score, mask, n in zip(scores, live, counts, strict=True)]


def _whole(wanted: Sequence[float], most: Sequence[int], count: int) -> list[int]:
    """Whole numbers near those wanted, none above its limit, that add up to `count`.

    What rounding down leaves goes to the largest fractions, the first of equal ones.
    """
    counts = [min(math.floor(number), limit) for number, limit in zip(wanted, most, strict=True)]
    left = count - sum(counts)
    order = sorted(range(len(counts)), key=lambda place: math.floor(wanted[place]) - wanted[place])
    while left > 0:
        for place in order:
            if left > 0 and counts[place] < most[place]:
                counts[place] += 1
                left -= 1
    return counts
