"""Criteria whose scores can be made to sum to one number in every layer."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from px_seg.errors import InputError
from px_seg.pruning.criteria.base import Criterion, Scores
from px_seg.wide import wide_dtype


@dataclass(frozen=True, kw_only=True)
class ConservingCriterion(Criterion):
    """A criterion whose scores can be taken relative to their layer.

    With R_l the sum of the scores of layer l, a score S_j becomes S_j / R_l**`conserve`, `conserve` in
    [0, 1]: 0 leaves it as it is; at 1 the scores of every layer sum to 1 (docs/method.md, section 5).
    """

    conserve: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.conserve, bool) or not isinstance(self.conserve, int | float) or not 0 <= self.conserve <= 1:
            raise InputError(f"{type(self).__name__}: conserve must be a number from 0 to 1, got {self.conserve!r}")


def conserved(scores: Mapping[str, Tensor], power: float) -> Scores:
    """Scores >= 0 over the `power` of their sum in each tensor, which is one layer, grouped or not.

    A layer that nothing flows through keeps its zeros. With a `power` of 0 the scores are returned as they are.
    """
    if power == 0:
        return dict(scores)
    return {name: _divided(score, power) for name, score in scores.items()}


def _divided(score: Tensor, power: float) -> Tensor:
    wide = wide_dtype(score.device)
    flow = score.sum(dtype=wide)
    return (score.to(wide) / flow.where(flow > 0, 1).pow(power)).to(score.dtype)
