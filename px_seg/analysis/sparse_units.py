"""Layers that sparse matrix units can take: of every 4 weights along the input channels at most 2 are not 0."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from px_seg.analysis.flops import layer_flops
from px_seg.pruning import Pattern, prunable
from px_seg.pruning.pattern import owners

TAKEN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

UNITS = Pattern.parse("2:4")
"""What units compute at half the cost."""


class SparseLayer(NamedTuple):
    """A layer in that pattern."""

    inputs: int
    """Channels."""
    outputs: int
    share: float
    """Of the whole network's operations, as dense kernels carry them out."""

    @property
    def is_wide(self) -> bool:
        """Whether it has as many channels as sparse kernels need to win, say TensorRT's makers (its issue 3849)."""
        return min(self.inputs, self.outputs) >= UNITS.channels


def sparse_layers(model: nn.Module, weights: Mapping[str, Tensor], shape: Sequence[int]) -> dict[str, SparseLayer]:
    """The layers of `model` whose weights are in the pattern 2:4, by name, for a sample of `shape`, (C, H, W).

    For each output channel and kernel position, of 4 consecutive input channels at least 2 weights are 0, as TensorRT
    asks of convolutions and linear layers (developer guide, "Structured Sparsity"). Grouped and transposed
    convolutions, those whose input channels 4 does not divide, and those with no weight left do not count. `weights`
    are by parameter name. The model comes back as it was.
    """
    found = owners(model)
    taken = {name: weight for name, weight in prunable(model).items() if _is_taken(found[id(weight)], weights[name])}
    if not taken:
        return {}
    flops, total = layer_flops(model, shape)
    return {
        name.removesuffix(".weight"): SparseLayer(weight.shape[1], weight.shape[0], flops[name] / total)
        for name, weight in taken.items()
    }


def _is_taken(layer: nn.Module, weight: Tensor) -> bool:
    if not isinstance(layer, TAKEN) or getattr(layer, "groups", 1) > 1 or weight.shape[1] % UNITS.m:
        return False
    live = weight != 0
    of_four = live.unflatten(1, (-1, UNITS.m)).sum(2)
    return bool(live.any()) and int(of_four.max()) <= UNITS.n


def of_sparse_units(layers: Mapping[str, SparseLayer]) -> str:
    """Layers in one line: how many, with which share of the operations, and which of them are wide."""
    wide = {name: layer for name, layer in layers.items() if layer.is_wide}
    line = f"2:4 in {len(layers)} layers with {share_of(layers):.0%} of the operations"
    if not wide:
        return f"{line}, none of them {UNITS.channels} channels wide, below which sparse units gain nothing"
    return (
        f"{line}; {UNITS.channels} channels wide are {len(wide)}, with {share_of(wide):.0%}: {', '.join(short(wide))}"
    )


def share_of(layers: Mapping[str, SparseLayer]) -> float:
    """Of the whole network's operations."""
    return sum(layer.share for layer in layers.values())


def short(names: Iterable[str]) -> list[str]:
    """Names that differ in the number of a block alone as one: encoder.layer3.{0,2-5}.conv1."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for name in names:
        parts = name.split(".")
        numbered = [place for place, part in enumerate(parts) if part.isdecimal()]
        # Of blocks.2.1.conv the second is the block; of layer3.0.downsample.0 the first, for the other is within it.
        place = next((place for place in numbered if place + 1 not in numbered), None)
        if place is None:
            blocks[name, ""] = []
        else:
            ends = ".".join(parts[:place]), ".".join(parts[place + 1 :])
            blocks.setdefault(ends, []).append(int(parts[place]))
    return [".".join(filter(None, (first, _ranges(numbers), last))) for (first, last), numbers in blocks.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in rising order as text, {0,2-5}."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return texts[0] if len(numbers) == 1 else f"{{{','.join(texts)}}}" if texts else ""
