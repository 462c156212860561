"""Patterns of n weights in every m along the input channels, which sparse matrix units compute faster."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.selection import top

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


_FORM = re.compile(r"(at-most )?(\d+):(\d+)(?: from (\d+))?")


@dataclass(frozen=True)
class Pattern:
    """`n` of every `m` consecutive input channels live, for each output channel and kernel position.

    With `at_most`, no more than that live in layers of at least `channels` input and output channels, those of one
    group; sparse matrix units gain nothing in smaller ones.
    """

    n: int
    m: int
    at_most: bool = False
    channels: int = 256

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """The pattern written as "2:4", "at-most 2:4" or "at-most 2:4 from 64", which says the channels.

        InputError for any other form, and unless 0 < n < m.
        """
        match = _FORM.fullmatch(str(text))
        if match is None or not 0 < int(match[2]) < int(match[3]) or (match[4] and not match[1]):
            raise InputError(
                f'a pattern is n:m with n below m, such as "2:4", "at-most 2:4" or "at-most 2:4 from 64"; '
                f"got {str(text)!r}"
            )
        return cls(int(match[2]), int(match[3]), bool(match[1]), *([int(match[4])] if match[4] else []))

    def __str__(self) -> str:
        if not self.at_most:
            return f"{self.n}:{self.m}"
        return f"at-most {self.n}:{self.m}" + (f" from {self.channels}" if self.channels != Pattern.channels else "")

    @property
    def sparsity(self) -> float | None:
        """1 - n/m, or None where it may be anything that leaves no more than that."""
        return None if self.at_most else 1 - self.n / self.m

    def input_dims(self, model: nn.Module, scope: Scope = None) -> dict[str, int | None]:
        """The dimension of its input channels for every weight in scope, by parameter name; None where it is exempt.

        Raises InputError naming the layers whose input channels `m` does not divide, unless they are exempt for that.
        """
        self.check(model, scope)
        found, exempt = owners(model), self.exempt(model, scope)
        return {
            name: None if _layer(name) in exempt else _input_dim(found[id(weight)])
            for name, weight in prunable(model, scope).items()
        }

    def exempt(self, model: nn.Module, scope: Scope = None) -> list[str]:
        """The layers in scope that need not keep the pattern; none unless it is one of at most n:m."""
        if not self.at_most:
            return []
        sizes = _channels(model, scope)
        return [name for name, own in sizes.items() if min(own) < self.channels or own[0] % self.m]

    def misfits(self, model: nn.Module, scope: Scope = None) -> dict[str, int]:
        """The layers in scope whose input channels, of one group, `m` does not divide, and how many these are."""
        exempt = self.exempt(model, scope)
        sizes = _channels(model, scope)
        return {name: own[0] for name, own in sizes.items() if own[0] % self.m and name not in exempt}

    def check(self, model: nn.Module, scope: Scope = None, remedy: str = "take them out of the scope") -> None:
        """Raise InputError naming the layers that do not fit, and the remedy, in which {} stands for their names."""
        if wrong := self.misfits(model, scope):
            layers = ", ".join(f"{name} ({channels})" for name, channels in wrong.items())
            raise InputError(
                f"the pattern {self} needs input channels in multiples of {self.m}, which these layers do not have: "
                f"{layers}: {remedy.format(', '.join(wrong))}"
            )

    def keep(
        self, scores: Sequence[Tensor], live: Sequence[Tensor], count: int, dims: Sequence[int | None]
    ) -> list[Tensor]:
        """The `count` highest scores at live places, but of every m channels the n highest before any other.

        `dims` are those of the input channels, None for layers that are exempt. A count of n/m of all then keeps
        exactly n of m; with a lower one, possible where the pattern is one of at most n:m, the highest of those stay.
        Ties go to the first.
        """
        best = [
            mask if dim is None else self._best(score, mask, dim)
            for score, mask, dim in zip(scores, live, dims, strict=True)
        ]
        left = count - sum(int(part.count_nonzero()) for part in best)
        if left <= 0:
            return top(scores, best, count)
        others = [mask & ~part for mask, part in zip(live, best, strict=True)]
        return [part | more for part, more in zip(best, top(scores, others, left), strict=True)]

    def check_kept(self, masks: Mapping[str, Tensor], model: nn.Module) -> None:
        """Raise InputError, naming the layer, for masks of these weights that do not keep the pattern."""
        for name, dim in self.input_dims(model, [_layer(name) for name in masks]).items():
            if dim is None:
                continue
            groups = torch.unflatten(masks[name].movedim(dim, -1), -1, (-1, self.m)).sum(-1)
            if int(groups.max()) > self.n or (self.sparsity is not None and int(groups.min()) < self.n):
                raise InputError(f"the mask of {name} does not keep the pattern {self}")

    def most(self, model: nn.Module, scope: Scope = None) -> int:
        """How many weights in scope can live."""
        weights = prunable(model, scope)
        dims = self.input_dims(model, scope)
        return sum(w.numel() if dims[name] is None else w.numel() * self.n // self.m for name, w in weights.items())

    def _best(self, score: Tensor, mask: Tensor, dim: int) -> Tensor:
        groups = torch.unflatten(score.masked_fill(~mask, -torch.inf).movedim(dim, -1), -1, (-1, self.m))
        # Stable, so that of equal scores the first comes first.
        order = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        best = torch.zeros(groups.shape, dtype=torch.bool, device=score.device).scatter_(-1, order, True)
        return best.flatten(-2).movedim(-1, dim) & mask


def owners(model: nn.Module) -> dict[int, nn.Module]:
    """The layers by the identity of their weight."""
    return {id(module._parameters.get("weight")): module for module in model.modules()}


def _layer(weight: str) -> str:
    return weight.removesuffix(".weight")


def _channels(model: nn.Module, scope: Scope) -> dict[str, tuple[int, int]]:
    """By layer, how many input and output channels each of its groups has."""
    found, sizes = owners(model), {}
    for name, weight in prunable(model, scope).items():
        layer, groups = found[id(weight)], int(getattr(found[id(weight)], "groups", 1))
        own, others = weight.shape[_input_dim(layer)], weight.shape[1 - _input_dim(layer)]
        inputs, outputs = (own // groups, others) if isinstance(layer, TRANSPOSED) else (own, others // groups)
        sizes[_layer(name)] = (int(inputs), int(outputs))
    return sizes


def _input_dim(layer: nn.Module) -> int:
    return 0 if isinstance(layer, TRANSPOSED) else 1
