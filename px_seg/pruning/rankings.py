"""How many weights each layer keeps: which weights compete with which.

A ranking is a function of the scores, the live places and how many to keep, and returns what is
kept, as `px_seg.pruning.selection.top` does, which ranks all layers together.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor

from px_seg.errors import InputError
from px_seg.pruning.selection import top, top_units

Ranking: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], int], list[Tensor]]

Shapes: TypeAlias = Sequence[Sequence[int]]


def uniform_counts(shapes: Shapes, count: int) -> list[float]:
    """How many weights, before rounding, tensors of these shapes keep of `count` in all: the same share of each."""
    sizes = [math.prod(shape) for shape in shapes]
    return [count * size / sum(sizes) for size in sizes]


def erk_counts(shapes: Shapes, count: int) -> list[float]:
    """The same by Erdos-Renyi-Kernel (Evci et al., ICML 2020).

    The density of a weight tensor is proportional to the sum of its dimensions over their product:
    (in + out + height + width) / (in * out * height * width). Where that exceeds 1 the layer
    stays dense, and the others share the rest.
    """
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


RANKINGS: dict[str, Callable[[Shapes, int], list[float]] | None] = {
    "global": None,
    "uniform": uniform_counts,
    "erk": erk_counts,
}
"""By name, how many weights each layer keeps, the highest in it; None where all layers are ranked together."""


def check_ranking_name(name: str) -> None:
    """Raise InputError for a ranking that does not exist."""
    if name not in list(RANKINGS):
        raise InputError(f"there is no ranking {name!r}: choose one of {', '.join(RANKINGS)}")


def ranking(name: str) -> Ranking:
    """The ranking of that name, of single weights. InputError when there is none."""
    check_ranking_name(name)
    return top if RANKINGS[name] is None else partial(_by_layer, name)


def _by_layer(name: str, scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
    return of_units(name, scores, live, count, [score.shape for score in scores])


def with_counts(counts: Sequence[int]) -> Ranking:
    """A ranking inside each layer, that ends with `counts` of their weights.

    While more are to be kept than these together, every layer is as far on its way there from all of its weights as the
    others.
    """

    def keep(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
        sizes, last = [score.numel() for score in scores], sum(counts)
        left = (count - last) / (sum(sizes) - last) if sum(sizes) > last else 0.0
        wanted = [end + (size - end) * left for size, end in zip(sizes, counts, strict=True)]
        numbers = _whole(wanted, [int(mask.count_nonzero()) for mask in live], [1] * len(sizes), count)
        return [top([score], [mask], n)[0] for score, mask, n in zip(scores, live, numbers, strict=True)]

    return keep


def of_units(name: str, scores: Sequence[Tensor], live: Sequence[Tensor], count: int, shapes: Shapes) -> list[Tensor]:
    """The units that the ranking of that name keeps, so that they have at most `count` weights.

    `scores` and `live` have an element a unit, and `shapes` are those of the layers' weights.
    """
    sizes = [math.prod(shape) // score.numel() for shape, score in zip(shapes, scores, strict=True)]
    allot = RANKINGS[name]
    if allot is None:
        return top_units([score / size for score, size in zip(scores, sizes, strict=True)], live, sizes, count)
    wanted = [weights / size for weights, size in zip(allot(shapes, count), sizes, strict=True)]
    counts = _whole(wanted, [int(mask.count_nonzero()) for mask in live], sizes, count)
    return [top([score], [mask], n)[0] for score, mask, n in zip(scores, live, counts, strict=True)]


def _whole(wanted: Sequence[float], most: Sequence[int], sizes: Sequence[int], count: int) -> list[int]:
    """Whole numbers near those wanted, none above its limit, that times `sizes` add up to `count`, or just below.

    What rounding down leaves goes to the largest fractions, the first of equal ones.
    """
    counts = [min(math.floor(number), limit) for number, limit in zip(wanted, most, strict=True)]
    left = count - sum(number * size for number, size in zip(counts, sizes, strict=True))
    order = sorted(range(len(counts)), key=lambda place: math.floor(wanted[place]) - wanted[place])
    while places := [place for place in order if counts[place] < most[place] and sizes[place] <= left]:
        for place in places:
            if sizes[place] <= left:
                counts[place] += 1
                left -= sizes[place]
    return counts
