"""The Neural Tangent Kernel of a network under its masks: exactly, in blocks of weights, and as an operator.

The kernel is that of the live convolution and linear weights of the network in eval mode: element (x k, y l) is the sum
over weights j of df_k(x)/d theta_j * df_l(y)/d theta_j. Its rows are samples by outputs.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp

from px_seg.cost import free_memory
from px_seg.errors import InputError
from px_seg.pruning.masked_network import MaskedNetwork, masked
from px_seg.pruning.modes import evaluating
from px_seg.pruning.outputs import leaves
from px_seg.pruning.scope import prunable
from px_seg.wide import wide_dtype

BLOCK = 2**30
"""Bytes of a Jacobian that are held at once, unless one layer alone has more."""

CHUNK = 16
"""Outputs that are differentiated together."""


def ntk_kernel(
    model: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor] | None = None,
    outputs: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """The Neural Tangent Kernel, (R, R), exact in the dtype of the weights and summed in float64, on their device.

    `images`: (N, C, H, W). `outputs`, (N, M) whole numbers, are places among each sample's outputs, flattened, and R is
    N * M; without them, all, and R is N * K. Rows are ordered by sample, then by output. Weights are differentiated by
    in blocks of layers whose Jacobian takes `block` bytes at most, and the network is run once more for each.

    Raises InputError for masks that do not fit, no images, and where memory does not hold it, saying how much is
    needed.
    """
    if images.dim() < 2 or not len(images):
        raise InputError(f"images must be a tensor (N, C, H, W) of at least one, got shape {tuple(images.shape)}")
    with _network(model, masks) as net:
        images = images.to(net.like)
        if outputs is None:
            outputs = torch.arange(output_count(net, images)).expand(len(images), -1)
        rows, wide = outputs.numel(), wide_dtype(net.like.device)
        live = _live_places(net)
        # By all weights of a layer: those that are pruned are differentiated by as well, and left out then.
        sizes = {name: net.weights[name].numel() for name in live}
        blocks = list(_blocks(sizes, rows, block))
        widest = max(sum(sizes[name] for name in names) for names in blocks)
        _check_fits(rows, len(images), widest, net.like.device)
        kernel = torch.zeros(rows, rows, dtype=wide, device=net.like.device)
        for names in blocks:
            jacobian = torch.empty(rows, sum(len(live[name]) for name in names), dtype=wide, device=net.like.device)
            for place, (image, chosen) in enumerate(zip(images, outputs.to(images.device), strict=True)):
                own = _jacobian(net, names, image, chosen)
                start = 0
                for name in names:
                    columns = slice(start, start := start + len(live[name]))
                    jacobian[place * len(chosen) : (place + 1) * len(chosen), columns] = own[name][:, live[name]]
            kernel.addmm_(jacobian, jacobian.T)
    return kernel


class TraceEstimate(NamedTuple):
    """Of the trace of a kernel over all outputs."""

    trace: float
    error: float
    """One standard error of the estimate; 0 where it is exact."""


def estimated_trace(
    model: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor] | None,
    probes: int,
    generator: torch.Generator,
) -> TraceEstimate:
    """Hutchinson's estimate of tr NTK over all outputs of all images (1989): |J' z|^2 with random signs z.

    Each image has signs of its own, so that products of two images are no part of the noise. `probes` is their number
    an image, 2 at least.
    """
    if probes < 2:
        raise InputError(f"an estimate with its error needs at least 2 probes, got {probes}")
    total = variance = 0.0
    with _network(model, masks) as net:
        for image in images.to(net.like):
            found, pull = _pullback(net, image[None])
            squares = []
            for _ in range(probes):
                signs = torch.randint(0, 2, found.shape, generator=generator, device=generator.device)
                (gradients,) = pull((2 * signs - 1).to(found))
                squares.append(sum(float(part.square().sum(dtype=torch.float64)) for part in _held(net, gradients)))
            values = torch.tensor(squares, dtype=torch.float64)
            total += float(values.mean())
            variance += float(values.var()) / probes
    return TraceEstimate(total, variance**0.5)


class Products(NamedTuple):
    """The kernel of all outputs as an operator."""

    times: Callable[[Tensor], Tensor]
    """NTK v, of a vector of one number an output, by sample."""
    size: int


@contextmanager
def kernel_products(
    model: nn.Module, images: Tensor, masks: Mapping[str, Tensor] | None, batch_size: int
) -> Iterator[Products]:
    """Products of the kernel over all outputs with a vector, J (J' v), for use in the context.

    One pass backward and one forward over the images, `batch_size` at once.
    """
    with _network(model, masks) as net:
        images = images.to(net.like)
        parts = images.split(batch_size)
        each = output_count(net, images)
        weights = _plain(net)

        def times(vector: Tensor) -> Tensor:
            rows = vector.to(net.like).view(len(images), each).split(batch_size)
            pulled: dict[str, Tensor] = {name: torch.zeros_like(weight) for name, weight in weights.items()}
            for part, own in zip(parts, rows, strict=True):
                _, pull = _pullback(net, part)
                (gradients,) = pull(own.reshape(-1))
                for into, gradient in zip(pulled.values(), _held(net, gradients), strict=True):
                    into.add_(gradient)
            with warnings.catch_warnings():
                # torch's own, of rules that it compiles for this.
                warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
                pushed = [jvp(lambda w, part=part: _outputs(net, w, part), (weights,), (pulled,))[1] for part in parts]
            return torch.cat(pushed)

        yield Products(times, len(images) * each)


def output_count(network: Callable[[Tensor], object], images: Tensor) -> int:
    """How many numbers a network returns for one image, tensors together."""
    with torch.no_grad():
        return sum(out.numel() for out in leaves(network(images[:1])) if isinstance(out, Tensor))


def chosen_outputs(each: int, images: int, count: int, generator: torch.Generator) -> Tensor:
    """(images, count) places of outputs drawn at random without repetition, of `each`, for every image anew."""
    if count > each:
        raise InputError(f"an image has {each} outputs, fewer than the {count} to choose")
    return torch.stack([torch.randperm(each, generator=generator)[:count].sort().values for _ in range(images)])


@contextmanager
def _network(model: nn.Module, masks: Mapping[str, Tensor] | None) -> Iterator[MaskedNetwork]:
    with masked(model, masks, None, evaluating) as net:
        yield net


def _plain(net: MaskedNetwork) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in net.weights.items()}


def _outputs(net: MaskedNetwork, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """All outputs, by sample."""
    found = net(images, {**_plain(net), **weights})
    return torch.cat([out.flatten(1) for out in leaves(found)], 1).flatten()


def _pullback(net: MaskedNetwork, images: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """All outputs, and what takes a vector of their size to the gradients of its product with them, in a tuple."""
    # torch declares the result of a call that returns more beside.
    return vjp(lambda weights: _outputs(net, weights, images), _plain(net))  # type: ignore[return-value]


def _held(net: MaskedNetwork, gradients: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients of live weights, 0 for pruned ones."""
    masks = [(gradients[name], mask) for name, mask in net.live.items()]
    return [part if mask is None else part * mask.to(part) for part, mask in masks]


def _live_places(net: MaskedNetwork) -> dict[str, Tensor]:
    """The places of live weights in each flattened tensor that has any."""
    found = {}
    for name, mask in net.live.items():
        weight = net.weights[name]
        whole = torch.ones(weight.numel(), dtype=torch.bool) if mask is None else mask.flatten()
        found[name] = whole.to(weight.device).nonzero()[:, 0]
    return {name: places for name, places in found.items() if len(places)}


def _blocks(sizes: Mapping[str, int], rows: int, block: int) -> Iterator[list[str]]:
    """Names in their order, in groups of which a Jacobian takes `block` bytes at most where a single one does."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and (held + size) * rows * 8 > block:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def _jacobian(net: MaskedNetwork, names: Sequence[str], image: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """(M, weights) of the chosen outputs of one image, for the tensors named."""
    weights = {name: net.weights[name].detach() for name in names}
    found = jacrev(lambda w: _outputs(net, w, image[None])[chosen], chunk_size=CHUNK)(weights)
    return {name: part.flatten(1) for name, part in found.items()}


def check_memory(model: nn.Module, images: int, each: int, block: int = BLOCK) -> None:
    """Raise InputError, saying how much is needed, where memory does not hold the kernel of `each` outputs an image."""
    rows = images * each
    sizes = {name: weight.numel() for name, weight in prunable(model).items()}
    columns = max(sum(sizes[name] for name in names) for names in _blocks(sizes, rows, block))
    _check_fits(rows, images, columns, next(model.parameters()).device)


def _check_fits(rows: int, images: int, columns: int, device: torch.device) -> None:
    """Raise InputError where the kernel, its eigenvalues and one block of the Jacobian do not fit."""
    # An image's part of the Jacobian is there three times while it is put together.
    need = 8 * (4 * rows**2 + rows * columns + 3 * rows // images * columns)
    free = free_memory(device)
    if need > free:
        raise InputError(
            f"the kernel of {rows:,} outputs needs {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: "
            "take fewer images, or fewer outputs of each"
        )
