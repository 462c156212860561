"""Criteria that look at the weights alone, or not even at them."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches
from px_seg.pruning.criteria.base import Criterion, InForce, Scores, register
from px_seg.pruning.distributed import Group
from px_seg.pruning.randomness import generator
from px_seg.pruning.scope import Scope, prunable


@register("dense")
@dataclass(frozen=True)
class Dense(Criterion):
    """Nothing is pruned: the reference that all others are compared with. It has no scores."""

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        raise InputError("dense prunes nothing: its sparsity is 0")


@register("random")
@dataclass(frozen=True)
class Random(Criterion):
    """Uniform in [0, 1) from the seed, the same on every device. Needs no data."""

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        source = generator("random", self.seed)
        draw = partial(torch.rand, generator=source, dtype=torch.float32, device="cpu")
        return {name: draw(weight.shape).to(weight.device) for name, weight in prunable(model, scope).items()}


@register("random_erk")
@dataclass(frozen=True)
class RandomERK(Random):
    """Uniform inside layers, whose densities follow Erdos-Renyi-Kernel (Evci et al., 2020; Liu et al., 2022)."""

    ranking: ClassVar[str] = "erk"


@register("magnitude")
@dataclass(frozen=True)
class Magnitude(Criterion):
    """|theta| (Han et al., 2015). Needs no data."""

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        return {name: weight.detach().abs() for name, weight in prunable(model, scope).items()}
