"""A network that is made smaller while it is pruned, for criteria that score by paths."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.compaction.checks import check_same, copied, random_images
from px_seg.pruning.compaction.graph import Graph
from px_seg.pruning.compaction.narrow import cut_weight
from px_seg.pruning.compaction.recording import record
from px_seg.pruning.compaction.shrinking import Place, cut, masked_copy, share_left
from px_seg.pruning.masks import Masks
from px_seg.pruning.modes import evaluating
from px_seg.pruning.paths.operations import UnsupportedOperation

_SPARSE = 0.3
"""The density from which on a network may be cut: above it few channels are without a path."""

_WORTH = 0.8
"""The share of its weights, zeros included, up to which cutting a network is worth the copy that it takes."""


class Smaller(NamedTuple):
    """A network without the channels that nothing needs under some masks."""

    model: nn.Module
    places: dict[str, Place]
    """Of its weights, by their names, in the weights of the whole network."""


class Shrinking:
    """Scores a network under masks by a smaller one that has the same paths.

    A weight on no path scores 0, as `Criterion.by_paths` says. The smaller network depends on the masks alone, so that
    a pruning that is resumed adds in the same order as one that was not.
    """

    def __init__(self, model: nn.Module, shape: Callable[[], torch.Size]) -> None:
        """`shape()` is that of one image, (C, H, W), asked for once the network is sparse."""
        self._model, self._shape = model, shape
        self._checked = False

    @cached_property
    def _graph(self) -> Graph | None:
        like = next(self._model.parameters())
        try:
            with evaluating(self._model):
                return record(self._model, torch.zeros((2, *self._shape()), dtype=like.dtype, device=like.device))
        except (UnsupportedOperation, InputError):
            # Paths may still be defined: they are walked in the whole network.
            return None

    def _smaller(self, masks: Masks) -> Smaller | None:
        """None where the whole network is to be walked."""
        if masks.density > _SPARSE or self._graph is None:
            return None
        if share_left(self._model, self._graph, masks) > _WORTH:
            return None
        dense = masked_copy(self._model, masks)
        if not self._checked:
            # Once: what a model does that its operations do not show, it does under all masks.
            self._checked = True
            try:
                found = cut(copied(dense), self._graph, masks)
                check_same(dense, found.model, random_images(dense, self._shape())[:1])
            except UnsupportedOperation:
                self._graph = None
                return None
            return Smaller(found.model, found.places)
        found = cut(dense, self._graph, masks)
        return Smaller(found.model, found.places)

    def scores(self, masks: Masks, score: Callable[[nn.Module, Masks], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What `score(network, masks)` returns for the whole network under the masks."""
        smaller = self._smaller(masks)
        if smaller is None:
            return score(self._model, masks)
        places = smaller.places
        cut_names = {place.name for place in places.values()}
        whole = {name: mask for name, mask in masks.items() if name not in cut_names}
        narrow = {
            name: cut_weight(masks[place.name], place.rows, place.columns)
            for name, place in places.items()
            if place.name in masks
        }
        scores = score(smaller.model, Masks({**whole, **narrow}))
        return {name: scores[name] for name in whole} | {
            places[name].name: _widened(scores[name], masks[places[name].name], places[name]) for name in narrow
        }


def _widened(score: Tensor, mask: Tensor, place: Place) -> Tensor:
    wide = score.new_zeros(mask.shape)
    wide[place.rows[:, None], place.columns] = score
    return wide
