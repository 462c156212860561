"""The spectrum of the Neural Tangent Kernel, and what is said of it beside another's."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from px_seg.analysis.tangent_kernel import kernel_products, ntk_kernel
from px_seg.errors import InputError


def ntk_spectrum(
    model: nn.Module, images: Tensor, masks: Mapping[str, Tensor] | None = None, outputs: Tensor | None = None
) -> Tensor:
    """The eigenvalues of the Neural Tangent Kernel, largest first, (R,) float64 on the CPU.

    Arguments and errors are those of `px_seg.analysis.ntk_kernel`.
    """
    return eigenvalues(ntk_kernel(model, images, masks, outputs))


def eigenvalues(kernel: Tensor) -> Tensor:
    """Those of a symmetric matrix without negative ones, largest first; rounding below 0 is 0."""
    return torch.linalg.eigvalsh(kernel).flip(0).clamp_(min=0).cpu().double()


class SpectrumFacts(NamedTuple):
    """Numbers of one spectrum."""

    trace: float
    largest: float
    condition: float
    """Largest over smallest eigenvalue; inf where the smallest is not above rounding."""
    effective_rank: float
    """exp of the entropy of the eigenvalues over their sum (Roy and Vetterli, EUSIPCO 2007); 0 for a kernel of 0."""
    rank: int
    """Eigenvalues above rounding."""


def spectrum_facts(spectrum: Tensor, precision: torch.dtype = torch.float64) -> SpectrumFacts:
    """See `SpectrumFacts`; `precision` is that of the weights whose kernel it is, which decides what is rounding."""
    total, largest, smallest = float(spectrum.sum()), float(spectrum[0]), float(spectrum[-1])
    floor = rounding(spectrum, precision)
    shares = spectrum[spectrum > 0] / total if total else spectrum[:0]
    return SpectrumFacts(
        trace=total,
        largest=largest,
        condition=largest / smallest if smallest > floor else math.inf,
        effective_rank=math.exp(-float((shares * shares.log()).sum())) if len(shares) else 0.0,
        rank=int((spectrum > floor).sum()),
    )


def rounding(spectrum: Tensor, precision: torch.dtype) -> float:
    """Below this an eigenvalue cannot be told from 0: the largest, times their number, times the dtype's epsilon."""
    return float(spectrum[0]) * len(spectrum) * torch.finfo(precision).eps


def spectral_distance(spectrum: Tensor, dense: Tensor, precision: torch.dtype = torch.float64) -> float:
    """How far two spectra of one length lie apart on a logarithmic axis: decades, in the mean over the ranks.

    0 is the same spectrum, 1 eigenvalues that are tenfold or a tenth. What cannot be told from 0 in the dense spectrum
    counts as that bound, in both.
    """
    floor = max(rounding(dense, precision), torch.finfo(torch.float64).tiny)
    a, b = (part.clamp(min=floor).log10() for part in (spectrum, dense))
    return float((a - b).abs().mean())


def kernel_alignment(kernel: Tensor, dense: Tensor) -> float:
    """Centred alignment of two kernels of the same rows (Cortes et al., JMLR 2012): 1 where one is a multiple.

    tr(KHLH) / sqrt(tr(KHKH) tr(LHLH)) with H = I - 11'/R, the CKA of the kernels. 0 where either is constant.
    """
    a, b = (part - part.mean(0) - part.mean(1, keepdim=True) + part.mean() for part in (kernel, dense))
    scale = float(a.norm()) * float(b.norm())
    return float((a * b).sum()) / scale if scale else 0.0


class LargestEigenvalue(NamedTuple):
    """By Lanczos."""

    value: float
    error: float
    """|NTK v - value v| for its unit vector v: an eigenvalue lies no farther than this."""


def largest_eigenvalue(
    model: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor] | None,
    generator: torch.Generator,
    batch_size: int = 4,
    tolerance: float = 1e-3,
) -> LargestEigenvalue:
    """The largest eigenvalue of the kernel over all outputs, by Lanczos (ARPACK), which needs products with it alone.

    A product takes one pass backward and one forward over the images. `tolerance` is the relative accuracy asked for.
    """
    with kernel_products(model, images, masks, batch_size) as (times, size):

        def product(vector: np.ndarray) -> np.ndarray:
            return times(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))).double().cpu().numpy()

        if size == 1:
            value = float(product(np.ones(1))[0])
            return LargestEigenvalue(value, 0.0)
        start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
        if not product(start).any():
            return LargestEigenvalue(0.0, 0.0)
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        try:
            values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, ncv=min(size, 12))
        except ArpackNoConvergence:
            raise InputError(
                "the largest eigenvalue of the kernel was not found by Lanczos' iterations: take fewer images, or all "
                "of their outputs"
            ) from None
        vector = vectors[:, 0]
        residual = float(np.linalg.norm(product(vector) - values[0] * vector))
    return LargestEigenvalue(float(values[0]), residual)
