"""Criteria: what a weight is worth. A criterion only scores; `prune` ranks and masks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.paths import evaluating, path_activations, path_kernel
from px_seg.pruning.scaled import Scaled, add, align
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.streams import Weights

Batches: TypeAlias = Iterable[Tensor | tuple[Tensor, Any] | list[Any]]
"""Image tensors (N, C, H, W), or pairs that begin with one."""


@dataclass(frozen=True)
class Criterion(ABC):
    """Scores weights; the higher score stays.

    `seed` is the source of all that a criterion draws at random; most draw nothing.
    """

    seed: int = 0

    rounds: ClassVar[int] = 1
    """In how many rounds of scoring and pruning the criterion is used unless told otherwise."""

    needs_data: ClassVar[bool] = False
    """Whether `score` reads the batches."""

    @abstractmethod
    def score(
        self, model: nn.Module, batches: Batches = (), masks: Mapping[str, Tensor] | None = None, scope: Scope = None
    ) -> dict[str, Tensor]:
        """One score per weight in `scope`, by parameter name, each of its parameter's shape.

        `masks` are those in force; weights they do not cover are live. The model comes back
        as it was.
        """


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform in [0, 1) from the seed, the same on every device. Needs no data."""

    def score(self, model, batches=(), masks=None, scope=None):
        generator = torch.Generator().manual_seed(self.seed)
        return {n: torch.rand(w.shape, generator=generator).to(w.device) for n, w in prunable(model, scope).items()}


@dataclass(frozen=True)
class Magnitude(Criterion):
    """|theta| (Han et al., 2015). Needs no data."""

    def score(self, model, batches=(), masks=None, scope=None):
        return {name: weight.detach().abs() for name, weight in prunable(model, scope).items()}


@dataclass(frozen=True)
class PX(Criterion):
    """Path eXclusion (Iurada, Ciccone, Tommasi, CVPR 2024): S_j = theta_j**2 * dR/d(theta_j**2).

    R = sum_x sum_k g_k(x) h_k bounds the trace of the Neural Tangent Kernel
    (docs/method.md, section 1); R is linear in each theta_j**2, so S_j is what R loses without the weight. h does not
    depend on the data, so g is summed over all samples first and one backward pass at batch
    one gives all scores.

    `bn="fold"` reads a BatchNorm by its running statistics as part of the weights.
    """

    bn: str = "fold"

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bn != "fold":
            raise InputError(f"PX knows no bn={self.bn!r}: the one way to read a BatchNorm is 'fold'")

    def score(self, model, batches=(), masks=None, scope=None):
        """The scores S_j >= 0 of the weights in `scope`, in the weights' dtype.

        R is taken at all outputs of the whole model whatever the scope. All samples have one
        shape. Where R itself leaves the range of the dtype, all scores are divided by one
        common power of two.

        Raises ValueError for no batches, samples of different shapes or a non-finite R,
        InputError when the masks leave no path, and UnsupportedOperation, naming module and
        operation, where paths are not defined.
        """
        scored = prunable(model, scope)
        weights = Weights(model, masks or {}, scored)
        with evaluating(model):
            activations, sample = _summed_activations(model, batches, weights)
            kernel = path_kernel(model, sample, weights)
        products = [
            Scaled((g.values * h.values).sum(), g.exponent + h.exponent)
            for g, h in zip(activations, kernel, strict=True)
        ]
        parts, exponent = align(products)
        bound = torch.stack(parts).sum()
        if not bound.isfinite():
            raise ValueError("PX: the trace bound is not finite: the weights or the images hold NaN or infinity")
        if bound == 0:
            raise InputError("PX: no path from the input to the output is left: ask for a lower sparsity")
        leaves = list(weights.squares.values())
        gradients = torch.autograd.grad(bound, leaves, allow_unused=True)
        unit = _representable(bound.detach(), int(exponent))
        return {
            name: torch.zeros_like(square) if gradient is None else square.detach() * gradient * unit
            for (name, square), gradient in zip(weights.squares.items(), gradients, strict=True)
        }


def _summed_activations(model: nn.Module, batches: Batches, weights: Weights) -> tuple[list[Scaled], Tensor]:
    """Path activations summed over all samples, one per output, and a sample to shape h by."""
    like = next(model.parameters())
    total: list[Scaled] = []
    shape = None
    for batch in batches:
        images = (batch if isinstance(batch, Tensor) else batch[0]).to(like)
        if shape is not None and images.shape[1:] != shape:
            raise ValueError(f"PX needs samples of one shape: got {tuple(shape)} and {tuple(images.shape[1:])}")
        shape = images.shape[1:]
        outputs = path_activations(model, images, weights)
        total = [add(a, b) for a, b in zip(total, outputs, strict=True)] if total else outputs
    if shape is None:
        raise ValueError("PX scores with data: give it at least one batch")
    return total, torch.ones((1, *shape), dtype=like.dtype, device=like.device)


def _representable(bound: Tensor, exponent: int) -> float:
    """2**exponent where the true bound fits its dtype with room to spare, otherwise 1."""
    magnitude = int(torch.frexp(bound).exponent) + exponent
    largest = math.frexp(torch.finfo(bound.dtype).max)[1]
    return 2.0**exponent if abs(magnitude) < largest - 1 and abs(exponent) < 1000 else 1.0


CRITERIA: dict[str, type[Criterion]] = {"px": PX, "random": Random, "magnitude": Magnitude}


def criterion(name: str, **settings: Any) -> Criterion:
    """The criterion of that name; `settings` go to its constructor. InputError if unknown."""
    if name not in CRITERIA:
        raise InputError(f"there is no method {name!r}: choose one of {', '.join(CRITERIA)}")
    return CRITERIA[name](**settings)
