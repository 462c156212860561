"""Criteria: what a weight is worth. A criterion only scores; `prune` ranks and masks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.bound import FOLD, Batches, Streams, path_bound
from px_seg.pruning.precision import PRECISIONS
from px_seg.pruning.released import BatchActivations, BatchKernel
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.sharing import Group


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
        self,
        model: nn.Module,
        batches: Batches = (),
        masks: Mapping[str, Tensor] | None = None,
        scope: Scope = None,
        group: Group = None,
    ) -> dict[str, Tensor]:
        """One score per weight in `scope`, by parameter name, each of its parameter's shape.

        `masks` are those in force; weights they do not cover are live. `batches` are those of
        this process, and the score is over those of all processes in the torch.distributed
        `group`, None for this process alone. The model comes back as it was.
        """


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform in [0, 1) from the seed, the same on every device. Needs no data."""

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        generator = torch.Generator().manual_seed(self.seed)
        return {n: torch.rand(w.shape, generator=generator).to(w.device) for n, w in prunable(model, scope).items()}


@dataclass(frozen=True)
class Magnitude(Criterion):
    """|theta| (Han et al., 2015). Needs no data."""

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        return {name: weight.detach().abs() for name, weight in prunable(model, scope).items()}


@dataclass(frozen=True)
class PX(Criterion):
    """Path eXclusion (Iurada, Ciccone, Tommasi, CVPR 2024): S_j = theta_j**2 * dR/d(theta_j**2).

    R = sum_x sum_k g_k(x) h_k bounds the trace of the Neural Tangent Kernel
    (docs/method.md, section 1); R is linear in each theta_j**2, so S_j is what R loses without the weight. h does not
    depend on the data, so g is summed over all samples first and one backward pass at batch
    one gives all scores.

    `bn="fold"` reads a BatchNorm by its running statistics as part of the weights. `bn="batch"`
    reads the network as the authors' released program does (`px_seg.pruning.released`): for
    comparison with it, and in float64, because it is badly conditioned.

    `precision` is that of the walk: "float64", "float32", "tf32" (NVIDIA GPUs) or "bfloat16";
    without it, the weights' own. What follows the walk is at least float32.
    """

    bn: str = "fold"
    precision: str | None = None

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bn not in _READINGS:
            raise InputError(f"PX knows no bn={self.bn!r}: choose one of {', '.join(_READINGS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise InputError(f"PX knows no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        """The scores S_j >= 0 of the weights in `scope`, in at least float32.

        R is taken at all outputs of the whole model whatever the scope. All samples have one
        shape. Where R itself leaves the range of the dtype, all scores are divided by one
        common power of two.

        Raises InputError for no batches, samples of different shapes, a non-finite R, and masks that
        do not fit or leave no path, and UnsupportedOperation, naming
        module and operation, where paths are not defined.
        """
        bound = path_bound(model, batches, masks, scope, _READINGS[self.bn], self.precision, group)
        unit = bound.unit()
        scores = {name: bound.gradients[name].mul_(square).mul_(unit) for name, square in bound.squares.items()}
        return scores if self.bn == "fold" else {name: score.abs_() for name, score in scores.items()}


_READINGS: dict[str, Streams] = {"fold": FOLD, "batch": Streams(BatchActivations, BatchKernel)}


CRITERIA: dict[str, type[Criterion]] = {"px": PX, "random": Random, "magnitude": Magnitude}


def criterion(name: str, **settings: Any) -> Criterion:
    """The criterion of that name; `settings` go to its constructor. InputError if either is unknown."""
    if name not in CRITERIA:
        raise InputError(f"there is no method {name!r}: choose one of {', '.join(CRITERIA)}")
    known = [field.name for field in fields(CRITERIA[name])]
    for setting in settings:
        if setting not in known:
            raise InputError(f"the method {name} has no setting {setting}; it has {', '.join(known)}")
    return CRITERIA[name](**settings)
