"""Linear centred kernel alignment, over batches."""

import torch
from torch import Tensor


class LinearCKA:
    """How alike two representations of the same samples are, up to rotation and one scale, in [0, 1].

    |X'Y|^2 / (|X'X| |Y'Y|) in Frobenius norms, X and Y with samples as rows and centred columns (Kornblith et al., ICML
    2019, arXiv 1905.00414, equation 5). Holds sums of products of features: its memory does not grow with the samples.
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []
        self._products: list[Tensor] = []

    def add(self, first: Tensor, second: Tensor) -> None:
        """One more batch of both: (N, C, ...), every element of the later dimensions a sample of its own.

        The two may differ in C alone.
        """
        x, y = (part.detach().movedim(1, -1).flatten(0, -2) for part in (first, second))
        if self._shift is None:
            # Moments about the first batch's means lose nothing where means are large beside the spread.
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        sums, products = [x.sum(0), y.sum(0)], [x.T @ x, y.T @ y, x.T @ y]
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        sums, products = ([part.to(wide) for part in parts] for parts in (sums, products))
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._count else sums
        self._products = [a + b for a, b in zip(self._products, products, strict=True)] if self._count else products
        self._count += len(x)

    def value(self) -> float:
        """The alignment of what was added; 0 where either does not vary, which tells nothing of the other."""
        (a, b), (xx, yy, xy) = self._sums, self._products
        pairs = ((xx, a, a), (yy, b, b), (xy, a, b))
        own, other, both = (
            float((product - torch.outer(left, right) / self._count).norm()) for product, left, right in pairs
        )
        return both**2 / (own * other) if own * other > 0 else 0.0
