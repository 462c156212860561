"""Patterns of n weights in every m along the input channels, which sparse matrix units compute faster."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.selection import top

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Pattern:
    """`n` of every `m` consecutive input channels live, for each output channel and kernel position."""

    n: int
    m: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """The pattern written as "2:4". InputError for any other form, and unless 0 < n < m."""
        match = re.fullmatch(r"(\d+):(\d+)", str(text))
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise InputError(f"a pattern is n:m with n below m, such as 2:4; got {str(text)!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    def input_dims(self, model: nn.Module, scope: Scope = None) -> dict[str, int]:
        """The dimension of its input channels for every weight in scope, by parameter name.

        Raises InputError naming the layers whose input channels `m` does not divide.
        """
        self.check(model, scope)
        owners = _owners(model)
        return {name: _input_dim(owners[id(weight)]) for name, weight in prunable(model, scope).items()}

    def misfits(self, model: nn.Module, scope: Scope = None) -> dict[str, int]:
        """The layers in scope whose input channels, of one group, `m` does not divide, and how many these are."""
        owners = _owners(model)
        wrong = {}
        for name, weight in prunable(model, scope).items():
            owner = owners[id(weight)]
            channels = weight.shape[_input_dim(owner)] // (owner.groups if isinstance(owner, _TRANSPOSED) else 1)
            if channels % self.m:
                wrong[name.removesuffix(".weight")] = channels
        return wrong

    def check(self, model: nn.Module, scope: Scope = None, remedy: str = "take them out of the scope") -> None:
        """Raise InputError naming the layers that do not fit, and the remedy, in which {} stands for their names."""
        if wrong := self.misfits(model, scope):
            layers = ", ".join(f"{name} ({channels})" for name, channels in wrong.items())
            raise InputError(
                f"the pattern {self} needs input channels in multiples of {self.m}, which these layers do not have: "
                f"{layers}: {remedy.format(', '.join(wrong))}"
            )

    def keep(self, scores: Sequence[Tensor], live: Sequence[Tensor], count: int, dims: Sequence[int]) -> list[Tensor]:
        """The `count` highest scores at live places, but of every m channels the n highest in any case.

        `count` is at least n/m of all, and then exactly n of m are kept. Ties go to the first.
        """
        kept = [self._best(score, mask, dim) for score, mask, dim in zip(scores, live, dims, strict=True)]
        others = [mask & ~best for mask, best in zip(live, kept, strict=True)]
        left = count - sum(int(best.count_nonzero()) for best in kept)
        return [best | more for best, more in zip(kept, top(scores, others, left), strict=True)]

    def _best(self, score: Tensor, mask: Tensor, dim: int) -> Tensor:
        groups = torch.unflatten(score.masked_fill(~mask, -torch.inf).movedim(dim, -1), -1, (-1, self.m))
        # Stable, so that of equal scores the first comes first.
        order = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        best = torch.zeros(groups.shape, dtype=torch.bool, device=score.device).scatter_(-1, order, True)
        return best.flatten(-2).movedim(-1, dim) & mask


def _owners(model: nn.Module) -> dict[int, nn.Module]:
    return {id(module._parameters.get("weight")): module for module in model.modules()}


def _input_dim(layer: nn.Module) -> int:
    return 0 if isinstance(layer, _TRANSPOSED) else 1
