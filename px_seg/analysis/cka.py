"""Linear centred kernel alignment, over batches."""

from typing import NamedTuple

import torch
from torch import Tensor

from px_seg.errors import InputError
from px_seg.wide import wide_dtype

FEWEST = 4
"""Samples that the unbiased estimate needs."""


class _Moments(NamedTuple):
    """Sums over samples, of which the estimate for two representations x and y is a function."""

    x: Tensor
    y: Tensor
    xy: Tensor
    """x y'."""
    x_norms_y: Tensor
    """|x|^2 y."""
    y_norms_x: Tensor
    """|y|^2 x."""
    norms: Tensor
    """|x|^2, |y|^2 and |x|^2 |y|^2."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "_Moments":
        a, b = x.square().sum(1), y.square().sum(1)
        return cls(x.sum(0), y.sum(0), x.T @ y, a @ y, b @ x, torch.stack([a.sum(), b.sum(), a @ b]))

    def plus(self, other: "_Moments") -> "_Moments":
        return _Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def hsic(self, count: int) -> float:
        """The unbiased estimate of the Hilbert-Schmidt independence criterion with linear kernels, of `count` samples.

        Song et al. (JMLR 2012), equation 5: of K = XX' and L = YY' without their diagonals, tr(KL) +
        sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(KL) / (n - 2), over n (n - 3).
        """
        a, b, ab = self.norms.tolist()
        trace = float(self.xy.square().sum()) - ab
        sums = (float(self.x @ self.x) - a) * (float(self.y @ self.y) - b)
        product = float(self.x @ self.xy @ self.y - self.x_norms_y @ self.y - self.y_norms_x @ self.x) + ab
        return (trace + sums / ((count - 1) * (count - 2)) - 2 * product / (count - 2)) / (count * (count - 3))


class LinearCKA:
    """How alike two representations of the same samples are, up to rotation and one scale: 1 if they are the same.

    HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) (Kornblith et al., ICML 2019, arXiv 1905.00414) of unbiased estimates, as
    Nguyen, Raghu and Kornblith (ICLR 2021, arXiv 2010.15327) take them: representations that have nothing in common are
    at 0 in the mean, and may be below, however few the samples and many the channels, where the common estimate is near
    1. Exact over all samples, not a mean over batches; sums of products of features are kept, and no features.
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._moments: tuple[_Moments, ...] = ()
        self._rounding = [0.0, 0.0]

    def add(self, first: Tensor, second: Tensor) -> None:
        """One more batch of both: (N, C, ...), every element of the later dimensions a sample of its own.

        The two may differ in C alone.
        """
        x, y = (part.detach().movedim(1, -1).flatten(0, -2) for part in (first, second))
        # A fourth power of a feature leaves the range of float32 at 1e9.
        wide = wide_dtype(x.device)
        sizes = (8 * torch.finfo(z.dtype).eps * float(z.abs().max()) for z in (x, y))
        self._rounding = [max(pair) for pair in zip(self._rounding, sizes, strict=True)]
        x, y = x.to(wide), y.to(wide)
        if self._shift is None:
            # The estimate does not change with it, and loses nothing where means are large beside the spread.
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        new = _Moments.of(x, y), _Moments.of(x, x), _Moments.of(y, y)
        old = self._moments
        self._moments = tuple(a.plus(b) for a, b in zip(old, new, strict=True)) if old else new
        self._count += len(x)

    def value(self) -> float:
        """The alignment of what was added; 0 where either varies by rounding alone.

        Raises InputError for fewer than `FEWEST` samples, of which there is no unbiased estimate.
        """
        if self._count < FEWEST:
            raise InputError(f"CKA needs at least {FEWEST} samples, got {self._count}: give more images")
        both, *own = (moments.hsic(self._count) for moments in self._moments)
        varies = [
            float(moments.norms[0]) > self._count * len(moments.x) * rounding**2
            for moments, rounding in zip(self._moments[1:], self._rounding, strict=True)
        ]
        return both / (own[0] * own[1]) ** 0.5 if all(varies) and min(own) > 0 else 0.0
