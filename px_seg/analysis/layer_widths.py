"""How wide a pruned network still is: per layer, its weights, its channels on a path, and the flow of R through it."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from px_seg.analysis.path_counts import effective_paths
from px_seg.analysis.path_flow import Split, flow
from px_seg.pruning.batches import Batches, checked_batches, sample_shape


class LayerWidth(NamedTuple):
    """What is left of one layer."""

    density: float
    """Share of its weights that are kept, in [0, 1]."""
    effective: float
    """Share of its weights that are kept and lie on a path."""
    channels: int
    """Output channels."""
    live: int
    """Those on a path."""
    flow: float
    """Share of R that passes the layer (`px_seg.analysis.path_flow`)."""


class Widths(NamedTuple):
    """What masks leave of a network, from the input on."""

    layers: dict[str, LayerWidth]
    """By the name of the layer, for those in the masks, without gates such as squeeze-and-excitation's."""
    sums: dict[str, Split]
    """How R reaches each residual sum, by the module that adds: through the branch and through the shortcut."""
    dead: tuple[str, ...]
    """Layers that no path passes; those of a module that has no other are named together by its name."""
    sparsity: float
    """Share of the weights that are pruned."""
    effective_sparsity: float
    """The same with kept weights on no path counted as pruned (arXiv 2107.02306)."""
    live_channels: float
    """Share of all output channels that lie on a path: effective nodes over nodes."""
    log10_paths: float
    """The decimal logarithm of the number of paths from an input element to an output, -inf for none."""


def widths(model: nn.Module, batches: Batches, masks: Mapping[str, Tensor]) -> Widths:
    """See `Widths`; in eval mode, and the model comes back as it was.

    `batches`: images (N, C, H, W), or pairs that begin with them, of which the flow is taken; all else counts for
    images of that shape. Raises InputError for masks that do not fit, for no batches, and UnsupportedOperation where
    paths are not defined, as with attention.
    """
    batches = list(checked_batches(batches))
    passed = flow(model, batches, masks)
    found = effective_paths(model, masks, sample_shape(batches, None))
    sizes = {name: mask.numel() for name, mask in masks.items()}
    layers = {
        name.removesuffix(".weight"): LayerWidth(
            density=int(mask.count_nonzero()) / sizes[name],
            effective=found.weights[name] / sizes[name],
            channels=found.widths[name],
            live=found.channels[name],
            flow=passed.layers[name],
        )
        for name, mask in masks.items()
        if name in found.channels
    }
    total, kept = sum(sizes.values()), sum(int(mask.count_nonzero()) for mask in masks.values())
    return Widths(
        layers,
        passed.sums,
        _together([name for name, layer in layers.items() if not layer.live], list(layers)),
        1 - kept / total,
        1 - sum(found.weights.values()) / total,
        found.channel_share,
        found.log10_paths,
    )


def _together(dead: list[str], names: list[str]) -> tuple[str, ...]:
    """Dead layers, or the outermost module all of whose layers are dead in place of them."""
    found: list[str] = []
    for name in dead:
        parts = name.split(".")
        modules = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        whole = next(module for module in modules if set(_under(module, names)) <= set(dead))
        if whole not in found:
            found.append(whole)
    return tuple(found)


def _under(module: str, names: list[str]) -> list[str]:
    return [name for name in names if name == module or name.startswith(f"{module}.")]
