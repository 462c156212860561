"""What networks are compared by, one small class a command."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from px_seg.analysis import (
    estimated_trace,
    kernel_alignment,
    largest_eigenvalue,
    ntk_kernel,
    ntk_trace_bound,
    spectral_distance,
    spectrum_facts,
    widths,
)
from px_seg.analysis.cka import FEWEST
from px_seg.analysis.spectrum import eigenvalues
from px_seg.analysis.tangent_kernel import check_memory, chosen_outputs, output_count
from px_seg.comparison import (
    preservation_figure,
    preservation_rows,
    spectrum_figure,
    spectrum_rows,
    width_figure,
    width_rows,
)
from px_seg.comparison.kind import Kind, Row
from px_seg.comparison.networks import Pruned
from px_seg.comparison.preservation_rows import PreservationRow
from px_seg.comparison.spectrum_rows import SpectrumRow
from px_seg.comparison.width_rows import WidthRow, starves
from px_seg.errors import InputError
from px_seg.pruning.modes import evaluating
from px_seg.pruning.paths.bound import path_bound
from px_seg.pruning.randomness import derived_seed
from px_seg.wide import wide_dtype

R_co = TypeVar("R_co", bound=Row, covariant=True)


class Measure(Protocol[R_co]):
    """One command: what it measures of a network, on how many images, and what its files look like."""

    kind: Kind[Any]
    title: str
    images: int
    """Validation images, unless told otherwise, or all where there are fewer."""
    fewest: int
    with_dense: bool
    """Whether the dense network has a row of its own."""
    flags: Mapping[str, tuple[Callable[[str], Any], str]]
    """Its own flags by name, which are its arguments: how their text is read, and what help says of them."""

    def __init__(self, **flags: Any) -> None: ...

    def settings(self) -> dict[str, Any]:
        """What decides the rows beside the networks and the images."""

    def check(self, dense: nn.Module, images: Sequence[Tensor]) -> None:
        """Raise InputError where the dense network, on these images, cannot be measured; the pruned ones may be."""

    def of(self, pruned: Pruned, images: Sequence[Tensor]) -> R_co:
        """The row of a network, on batches of images."""


class PreservationMeasure:
    """How well a pruned network still is the dense one."""

    kind = Kind(
        "preservation",
        preservation_rows.read_rows,
        preservation_rows.write_rows,
        preservation_rows.table,
        preservation_figure.draw,
        preservation_rows.said,
    )
    title = "Pruned networks beside the dense one, before training"
    images = 128
    fewest = FEWEST
    with_dense = False
    flags: Mapping[str, tuple[Callable[[str], Any], str]] = {}

    def settings(self) -> dict[str, Any]:
        return {}

    def check(self, dense: nn.Module, images: Sequence[Tensor]) -> None:
        pass

    def of(self, pruned: Pruned, images: Sequence[Tensor]) -> PreservationRow:
        repaired = None if pruned.network is pruned.dense else pruned.network
        return preservation_rows.compared(
            pruned.key, pruned.dense, pruned.masks, pruned.seconds, images, repaired=repaired
        )


class _Kernel(NamedTuple):
    kernel: Tensor
    spectrum: Tensor


class SpectrumMeasure:
    """The spectrum of the Neural Tangent Kernel, beside the dense network's.

    `outputs` of each image make the rows of the kernel; by default all, where there are no more than `MOST`, and
    otherwise `FEW`, drawn at random. In float64.
    """

    MOST = 100
    FEW = 8
    PROBES = 4
    """Of the estimate of a trace over more outputs than these."""

    kind = Kind(
        "ntk",
        spectrum_rows.read_rows,
        spectrum_rows.write_rows,
        spectrum_rows.table,
        spectrum_figure.draw,
        spectrum_rows.said,
    )
    title = "Eigenvalues of the Neural Tangent Kernel, before training"
    images = 16
    fewest = 1
    with_dense = True
    flags: Mapping[str, tuple[Callable[[str], Any], str]] = {
        "outputs": (int, f"outputs of each image; by default all up to {MOST}, or {FEW} drawn at random")
    }

    def __init__(self, outputs: int | None = None) -> None:
        if outputs is not None and outputs < 1:
            raise InputError(f"--outputs must be at least 1, got {outputs}")
        self.outputs = outputs
        self._dense: dict[int, _Kernel] = {}

    def settings(self) -> dict[str, Any]:
        return {"outputs": self.outputs}

    def check(self, dense: nn.Module, images: Sequence[Tensor]) -> None:
        with evaluating(dense):
            each = output_count(dense, images[0])
        if self.outputs is not None and self.outputs > each:
            raise InputError(f"--outputs must be at most {each}, the outputs of an image, got {self.outputs}")
        check_memory(dense, sum(map(len, images)), self._chosen(each))
        _check_paths(dense, images)

    def _chosen(self, each: int) -> int:
        return self.outputs or (each if each <= self.MOST else self.FEW)

    def of(self, pruned: Pruned, images: Sequence[Tensor]) -> SpectrumRow:
        dense, x = _wide(pruned.dense), torch.cat(list(images)).to(next(pruned.dense.parameters()).device)
        x = x.to(wide_dtype(x.device))
        network = dense if pruned.network is pruned.dense else _wide(pruned.network)
        with evaluating(network):
            each = output_count(network, x)
        chosen = self._chosen(each)
        draws = torch.Generator().manual_seed(derived_seed("ntk", len(x), each, chosen))
        outputs = None if chosen >= each else chosen_outputs(each, len(x), chosen, draws)
        if pruned.key[2] not in self._dense:
            self._dense[pruned.key[2]] = _kernel(dense, x, None, outputs)
        reference = self._dense[pruned.key[2]]
        whole = network is dense and pruned.masks.density == 1
        own = reference if whole else _kernel(network, x, pruned.masks, outputs)
        facts = spectrum_facts(own.spectrum, x.dtype)
        if outputs is None:
            trace, trace_error, largest, largest_error = facts.trace, 0.0, facts.largest, 0.0
        else:
            trace, trace_error = estimated_trace(network, x, pruned.masks, self.PROBES, draws)
            largest, largest_error = largest_eigenvalue(network, x, pruned.masks, draws)
        return SpectrumRow(
            *pruned.key,
            outputs=len(own.spectrum),
            all_outputs=each * len(x),
            distance=spectral_distance(own.spectrum, reference.spectrum, x.dtype),
            alignment=kernel_alignment(own.kernel, reference.kernel),
            trace=trace,
            trace_error=trace_error,
            largest=largest,
            largest_error=largest_error,
            condition=facts.condition,
            effective_rank=facts.effective_rank,
            rank=facts.rank,
            bound=ntk_trace_bound(network, [x], pruned.masks, biases=True),
            prune_seconds=pruned.seconds,
            spectrum=tuple(own.spectrum.tolist()),
        )


def _check_paths(dense: nn.Module, images: Sequence[Tensor]) -> None:
    """Raise UnsupportedOperation for a network in which paths are not defined."""
    path_bound(dense, [images[0][:1]])


def _kernel(model: nn.Module, images: Tensor, masks: Any, outputs: Tensor | None) -> _Kernel:
    kernel = ntk_kernel(model, images, masks, outputs)
    return _Kernel(kernel, eigenvalues(kernel))


def _wide(model: nn.Module) -> nn.Module:
    """A copy that is wide enough for eigenvalues that differ by many orders of magnitude."""
    return copy.deepcopy(model).to(wide_dtype(next(model.parameters()).device))


class WidthMeasure:
    """How wide a pruned network still is, and where R flows."""

    kind = Kind(
        "widths", width_rows.read_rows, width_rows.write_rows, width_rows.table, width_figure.draw, width_rows.said
    )
    title = "Widths before training"
    images = 16
    fewest = 1
    with_dense = True
    flags: Mapping[str, tuple[Callable[[str], Any], str]] = {}

    def settings(self) -> dict[str, Any]:
        return {}

    def check(self, dense: nn.Module, images: Sequence[Tensor]) -> None:
        _check_paths(dense, images)

    def of(self, pruned: Pruned, images: Sequence[Tensor]) -> WidthRow:
        found = widths(pruned.network, images, pruned.masks)
        return WidthRow(
            *pruned.key,
            pruned=found.sparsity,
            effective_sparsity=found.effective_sparsity,
            live_channels=found.live_channels,
            log10_paths=found.log10_paths,
            narrowest=min(layer.live / layer.channels for layer in found.layers.values()),
            starved=sum(map(starves, found.sums.values())),
            dead=found.dead,
            prune_seconds=pruned.seconds,
            layers=found.layers,
            sums=found.sums,
        )


MEASURES: Mapping[str, type[Measure[Any]]] = {
    "preservation": PreservationMeasure,
    "ntk": SpectrumMeasure,
    "widths": WidthMeasure,
}
"""By the names of the commands."""
