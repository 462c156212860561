"""What is left of a network that was pruned hard: layers without weights, and weights that nothing reaches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from px_seg.analysis.path_counts import effective_paths


class Collapse(NamedTuple):
    """How far masks cut a network apart."""

    empty: tuple[str, ...]
    """Weight tensors that keep nothing."""

    thinnest: float
    """The lowest density of those that keep something."""

    stranded: float
    """Share of the kept weights that lie on no path from the input to an output, so that they have no effect."""


def collapse(model: nn.Module, masks: Mapping[str, Tensor], shape: Sequence[int]) -> Collapse:
    """See `Collapse`; `shape` is that of one sample, (C, H, W).

    Paths are counted whatever the weights on them, in float64 on a copy of the model. Raises
    UnsupportedOperation for a network in which they are not defined.
    """
    densities = {name: float(mask.float().mean()) for name, mask in masks.items()}
    kept = sum(int(mask.count_nonzero()) for mask in masks.values())
    reached = sum(effective_paths(model, masks, shape).weights.values())
    return Collapse(
        tuple(name for name, density in densities.items() if density == 0),
        min((density for density in densities.values() if density > 0), default=0.0),
        1 - reached / kept if kept else 0.0,
    )
