"""What a model's weights read as in the two streams, under masks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from px_seg.pruning.masks import check_fit
from px_seg.pruning.paths.operations import UnsupportedOperation, label


class Weights:
    """A model's parameters by identity, the masks that hold for them, and the dtype they are read in.

    `masks` may cover any part of the parameters; the others are fully live. Raises InputError
    naming the first mask that does not fit.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.device = next(model.parameters()).device
        self._parameters = dict(model.named_parameters())
        self.names = {id(parameter): name for name, parameter in self._parameters.items()}
        """The parameters' names by identity."""
        self._buffers = {id(buffer): buffer for buffer in model.buffers()}
        self._masks = masks
        self._filters: dict[int, Tensor] = {}
        check_fit(masks, self._parameters)

    def filter(self, weight: Tensor, function: Callable[..., Any]) -> Tensor | None:
        """The weight if it is a buffer, such as the filter of a blur: an average; None if it is not.

        Raises UnsupportedOperation for one with negative elements.
        """
        if id(weight) not in self._buffers:
            return None
        if id(weight) not in self._filters:
            if not bool((weight >= 0).all()):
                raise UnsupportedOperation(f"{label(function)} uses a fixed filter with negative elements")
            self._filters[id(weight)] = weight.to(self.dtype)
        return self._filters[id(weight)]

    def name(self, weight: Tensor, function: Callable[..., Any]) -> str:
        """The parameter's name; UnsupportedOperation when the weight is computed on the fly."""
        if id(weight) not in self.names:
            raise UnsupportedOperation(f"{label(function)} uses a weight that is not a parameter of the model")
        return self.names[id(weight)]


class TrueAndLive(Weights):
    """For the path activations: the true weights, and whether they live.

    Every batch of a round reads both, so they are made once and kept: a layer that is not
    masked costs nothing, a masked one two tensors of its size.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__(model, masks, dtype)
        partly = [name for name, whole in zip(masks, _all_true(masks.values()), strict=True) if not whole]
        self._masks = {name: masks[name] for name in partly}
        self._read: dict[str, tuple[Tensor, Tensor | None]] = {}

    def read(self, weight: Tensor, function: Callable[..., Any]) -> tuple[Tensor, Tensor | None]:
        """theta * mask, and the mask as 0 and 1 or None where every weight lives."""
        name = self.name(weight, function)
        if name not in self._read:
            true = weight.detach().to(self.dtype)
            live = self._masks[name].to(true) if name in self._masks else None
            self._read[name] = (true if live is None else true * live), live
        return self._read[name]


class Powers(Weights):
    """For the path kernel: powers of the weights, as leaves to differentiate by where they are scored."""

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        dtype: torch.dtype,
        scored: Iterable[str],
        exponent: int = 2,
    ) -> None:
        super().__init__(model, masks, dtype)
        self._exponent = exponent
        self.leaves = {name: self._power(name).requires_grad_() for name in scored}

    def read(self, weight: Tensor, function: Callable[..., Any]) -> Tensor:
        """|theta * mask|**exponent, the leaf where the weight is scored."""
        name = self.name(weight, function)
        return self.leaves[name] if name in self.leaves else self._power(name)

    def true(self, weight: Tensor, function: Callable[..., Any]) -> Tensor:
        """theta * mask."""
        name = self.name(weight, function)
        true = weight.detach().to(self.dtype)
        return true * self._masks[name].to(true) if name in self._masks else true

    def _power(self, name: str) -> Tensor:
        weight = self._parameters[name].detach().to(self.dtype)
        power = weight.square() if self._exponent == 2 else weight.abs().pow_(self._exponent)
        return power.mul_(self._masks[name].to(power)) if name in self._masks else power


class TrueAndSquares(Powers):
    """For the paths' values under the true network's gates: the true weights, and their squares as leaves.

    Every batch of a round reads both, so they are made once and kept.
    """

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Tensor], dtype: torch.dtype, scored: Iterable[str]
    ) -> None:
        super().__init__(model, masks, dtype, scored)
        self._read: dict[str, tuple[Tensor, Tensor]] = {}

    def both(self, weight: Tensor, function: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """theta * mask, and its square, the leaf where the weight is scored."""
        name = self.name(weight, function)
        if name not in self._read:
            self._read[name] = self.true(weight, function), self.read(weight, function)
        return self._read[name]


def _all_true(masks: Iterable[Tensor]) -> list[bool]:
    """Whether each mask is true throughout, in one step for all."""
    # As bytes, because torch's `all` takes ten times as long.
    answers = [(mask.view(torch.uint8) if mask.dtype == torch.bool else mask).amin() == 1 for mask in masks]
    return torch.stack(answers).tolist() if answers else []
