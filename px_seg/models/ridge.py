"""A linear head in closed form: ridge regression of one-hot labels on features."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """What ridge regression needs to know of features and labels; sums over parts of the data add up.

    `gram` (D + 1, D + 1) and `cross` (D + 1, C) are weighted sums of products of the features, a 1 appended, with
    themselves and with one-hot labels; float64.
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, weights: Tensor) -> "Moments":
        """Of features (N, D), labels (N,) int64, and weights (C,), one a class."""
        extended = torch.nn.functional.pad(features.double(), (0, 1), value=1.0)
        weighted = extended * weights.double()[labels][:, None]
        targets = torch.nn.functional.one_hot(labels, len(weights)).double()
        return cls(weighted.T @ extended, weighted.T @ targets)

    def plus(self, other: "Moments") -> "Moments":
        return Moments(self.gram + other.gram, self.cross + other.cross)


def ridge_regression(moments: Moments, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,), float64, of the head that minimises

        sum_i w_i |W phi_i + b - y_i|^2 + penalty |W|^2

    (Hoerl, Kennard, 1970); the bias is not penalised. `penalty` is above 0.
    """
    shrink = torch.full_like(moments.gram[0], penalty)
    shrink[-1] = 0
    solution = torch.linalg.solve(moments.gram + shrink.diag(), moments.cross)
    return solution[:-1].T.contiguous(), solution[-1]
