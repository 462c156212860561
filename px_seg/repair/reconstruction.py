"""The kept weights of every layer refitted to what the dense layer returns, by least squares."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from px_seg.errors import InputError
from px_seg.pruning.randomness import generator
from px_seg.repair.least_squares import solved
from px_seg.repair.pairing import Layer, channels_last, side_by_side
from px_seg.wide import wide_dtype

SAMPLES = (2**12, 2**16)
"""The fewest and the most positions, over all images, that a layer is fitted on where it has more."""

SAMPLES_A_WEIGHT = 64
"""Positions for every weight of an output channel, between these two. Independent ones would raise the
least error by about a 64th; those of one image are not, so it is more."""

_AT_ONCE = 2**25
"""Numbers that the inputs of a layer are unfolded to at a time."""


def reconstructed(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor, ridge: float) -> nn.Module:
    """A copy of the model under `masks` whose kept weights minimise every layer's own squared error.

    For an output channel with kept weights w, inputs x (of the pruned network, the layers before being refitted) and
    the dense layer's outputs y, w and c minimise sum (w x + c - y)^2 + r n |w - w0|^2 over images and positions; w0 are
    the weights as they were, n is the number of samples and r is `ridge` times the layer's mean variance of an
    input. The layer-wise problem of the optimal-brain family (Hassibi and Stork, NeurIPS 1992; Frantar and Alistarh,
    NeurIPS 2022, arXiv 2208.11580), solved exactly, channel by channel, in float64. c goes into the layer's
    bias, or out of the running mean of the BatchNorm that follows; where there is neither, it is 0.

    The time grows with (inputs of a channel, kept or pruned, whichever are fewer)^3 times the number of channels.
    """
    return side_by_side(model, masks, images, lambda layer, inputs, wanted: _refit(layer, inputs, wanted, ridge))


def _refit(layer: Layer, inputs: Tensor, wanted: Tensor, ridge: float) -> None:
    weight = layer.module.get_parameter("weight")
    bias = layer.module._parameters.get("bias")
    groups = _groups(layer)
    moments = _moments(layer, inputs, wanted, groups)
    fits_mean = bias is not None or (layer.norm is not None and layer.norm.running_mean is not None)
    moments = moments.centred() if fits_mean else moments.about_zero()
    rows, kept = weight.flatten(1).to(moments.gram), layer.mask.to(weight.device, torch.bool).flatten(1)
    per_group = len(rows) // groups
    penalty = ridge * float(moments.gram.diagonal(dim1=1, dim2=2).mean())
    # A layer whose inputs are the same in all samples has nothing to be fitted to.
    if penalty > 0:
        moments.gram.diagonal(dim1=1, dim2=2).add_(penalty)
        right = moments.product.mT + penalty * rows.view(groups, per_group, -1)
        rows = solved(moments.gram, right, kept.view_as(right)).flatten(0, 1)
    weight.copy_(rows.view_as(weight))
    # What the fit leaves of the mean, given that of the inputs.
    mean, wanted_mean = moments.means()
    shift = wanted_mean - (rows.view(groups, per_group, -1) @ mean[:, :, None]).flatten()
    if bias is not None:
        bias.copy_(shift)
    elif layer.norm is not None and layer.norm.running_mean is not None:
        layer.norm.running_mean.sub_(shift.to(layer.norm.running_mean))


def _groups(layer: Layer) -> int:
    return int(getattr(layer.module, "groups", 1))


class _Moments(NamedTuple):
    """Means over samples, of differences from the first sample: products of values far from 0 would drown them."""

    first: Tensor
    """(groups, K), the inputs of the first sample."""
    first_wanted: Tensor
    """(groups, outputs a group), its outputs."""
    inputs: Tensor
    """(groups, K)."""
    gram: Tensor
    """(groups, K, K), of products of inputs."""
    product: Tensor
    """(groups, K, outputs a group), of inputs and outputs."""
    wanted: Tensor
    """(groups, outputs a group)."""

    def means(self) -> tuple[Tensor, Tensor]:
        """Of the inputs themselves, (groups, K), and of the outputs, (outputs,)."""
        return self.first + self.inputs, (self.first_wanted + self.wanted).flatten()

    def centred(self) -> "_Moments":
        """With covariances in place of means of products."""
        return self._moved(-self.inputs, -self.wanted)

    def about_zero(self) -> "_Moments":
        """With means of products of the values themselves."""
        return self._moved(self.first, self.first_wanted)

    def _moved(self, inputs: Tensor, wanted: Tensor) -> "_Moments":
        """The means of products once these are added to every sample."""
        mean = self.inputs[:, :, None]
        added, more = inputs[:, :, None], wanted[:, None]
        gram = self.gram + added @ mean.mT + mean @ added.mT + added @ added.mT
        product = self.product + added @ self.wanted[:, None] + mean @ more + added @ more
        return self._replace(gram=gram, product=product)


def _moments(layer: Layer, inputs: Tensor, wanted: Tensor, groups: int) -> _Moments:
    """Over all images and their positions, or as many of these as suffice, the same ones of every image."""
    weight = layer.module.get_parameter("weight")
    size = weight[0].numel()
    positions = channels_last(layer.module, wanted[:1]).shape[1]
    chosen: Tensor | slice = slice(None)
    fewest, most = SAMPLES
    wished = min(most, max(fewest, SAMPLES_A_WEIGHT * size))
    if len(inputs) * positions > wished:
        drawn = torch.randperm(positions, generator=generator("reconstruct", layer.name))
        chosen = drawn[: -(-wished // len(inputs))].sort().values.to(wanted.device)
    count, sums = 0, None
    origin: tuple[Tensor, Tensor] | None = None
    check_linear(layer, inputs[:1])
    at_once = max(1, _AT_ONCE // (groups * size * positions))
    for one, other in zip(inputs.split(at_once), wanted.split(at_once), strict=True):
        x = unfolded(layer.module, one, groups)[:, chosen].flatten(0, 1)
        y = channels_last(layer.module, other)[:, chosen].flatten(0, 1)
        count += len(x)
        x, y = _by_group(x, groups), _by_group(y, groups)
        origin = origin or (x[:, :1].clone(), y[:, :1].clone())
        x, y = x - origin[0], y - origin[1]
        parts = [x.sum(1), x.mT @ x, x.mT @ y, y.sum(1)]
        sums = parts if sums is None else [a.add_(b) for a, b in zip(sums, parts, strict=True)]
    assert sums is not None
    assert origin is not None
    return _Moments(origin[0][:, 0], origin[1][:, 0], *(part / count for part in sums))


def check_linear(layer: Layer, image: Tensor) -> None:
    """InputError for a layer that returns something else than its weight times its inputs, such as a standardised one.

    To what float32 can tell.
    """
    weight, bias = layer.module.get_parameter("weight"), layer.module._parameters.get("bias")
    groups = _groups(layer)
    wanted = channels_last(layer.module, layer.module(image)).flatten(0, 1)
    x = unfolded(layer.module, image, groups).flatten(0, 1)
    rows = weight.flatten(1).view(groups, len(weight) // groups, -1)
    found = (x.view(len(x), groups, -1).movedim(1, 0) @ rows.mT).movedim(0, 1).flatten(1)
    if bias is not None:
        found = found + bias
    # NaN and infinity are told of by the repair as a whole.
    if (found - wanted).abs().max() > 1e-3 * wanted.abs().max() + 1e-6:
        raise InputError(
            f"{layer.name} is of a layer that returns something else than this weight times its inputs "
            f"({type(layer.module).__name__}), which cannot be reconstructed: use statistics"
        )


def _by_group(samples: Tensor, groups: int) -> Tensor:
    """(samples, groups * K) as (groups, samples, K), wide, in one copy."""
    parted = samples.view(len(samples), groups, -1).movedim(1, 0)
    return parted.to(wide_dtype(samples.device), memory_format=torch.contiguous_format)


def unfolded(module: nn.Module, inputs: Tensor, groups: int) -> Tensor:
    """(N, positions, groups * K): what each weight of an output channel is multiplied by.

    The layer itself lays it out, with weights that pick one input each, and so with its own padding and strides.
    """
    weight = module.get_parameter("weight")
    size = weight[0].numel()
    picking = torch.eye(size, dtype=weight.dtype, device=weight.device).view(size, *weight.shape[1:])
    picking = picking.repeat(groups, *[1] * (weight.dim() - 1))
    lent = {"weight": picking}
    if module._parameters.get("bias") is not None:
        lent["bias"] = torch.zeros(len(picking), dtype=weight.dtype, device=weight.device)
    return channels_last(module, functional_call(module, lent, (inputs,)))
