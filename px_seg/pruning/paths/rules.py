"""What each torch function means for a path.

To teach both streams of `px_seg.pruning.paths.walk` another operation, add a rule here, or from
your own code. An activation function phi needs only its gate phi(u)/u:

    from px_seg.pruning.paths.rules import GATES, RULES, batch_norm, structural
    GATES[torch.nn.functional.softsign] = lambda u: 1 / (1 + u.abs())

an operation that averages or rearranges elements, with fixed weights that are not negative,
needs only its name:

    RULES[torch.roll] = structural

and a norm says which statistics it divides by, here as BatchNorm does:

    def instance_norm(func, x, running_mean, running_var, use_input_stats, **kwargs):
        return batch_norm(func, x, running_mean, running_var, training=use_input_stats, **kwargs)
    RULES[torch.nn.functional.instance_norm] = instance_norm

A rule takes the torch function and its arguments, and says what happens in terms of the
methods of PathOperations, which the two streams implement.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from px_seg.pruning.paths.operations import (
    BatchNorm,
    Function,
    PathOperations,
    UnsupportedOperation,
    carries_paths,
    label,
)


def weighted(func: Function, x: PathOperations, weight: Tensor, bias: Tensor | None = None, *args, **kwargs):
    """Convolutions and linear layers: the weight is read by the stream, the bias is dropped."""
    return x.weighted(func, weight, bias, args, kwargs)


def batch_norm(
    func: Function,
    x: PathOperations,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
):
    """BatchNorm folded into the weights: a gain of gamma**2 / (var + eps), the shift dropped."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperation(f"{label(func)} with batch statistics cannot be folded: it needs running statistics")
    return x.normed(BatchNorm(running_mean, running_var, weight, bias, eps))


def structural(func: Function, x: PathOperations, *args, **kwargs):
    """What averages or rearranges elements with fixed non-negative weights: as is."""
    return x.moved(func, args, kwargs)


def max_pool(func: Function, x: PathOperations, *args, **kwargs):
    """The element that the true network's maximum took."""
    kwargs.pop("return_indices", None)
    return x.selected(func, args, kwargs)


def join(func: Function, tensors: Iterable[PathOperations], dim: int = 0):
    """Concatenation: the parts brought to one exponent."""
    parts = list(tensors)
    if not all(type(part) is type(parts[0]) for part in parts):
        raise UnsupportedOperation(f"{label(func)} mixes tensors that carry paths with others")
    return parts[0].joined(func, parts, {"dim": dim})


def interpolate(
    func: Function, x: PathOperations, size=None, scale_factor=None, mode: str = "nearest", *args, **kwargs
):
    """Upsampling, unless it weighs elements negatively."""
    if mode == "bicubic":
        raise UnsupportedOperation("bicubic interpolation has negative weights, which paths do not allow")
    return x.moved(func, (size, scale_factor, mode, *args), kwargs)


def pad(func: Function, x: PathOperations, pad, mode: str = "constant", value: float | None = None):
    """Padding with zeros or with the tensor's own elements."""
    if mode == "constant" and value:
        raise UnsupportedOperation(f"padding with {value} adds elements that carry no paths")
    return x.moved(func, (pad, mode, value), {})


def total(func: Function, x: Any, other: Any, *, alpha: float = 1):
    """Addition, of two streams or of a stream and a bias."""
    if alpha != 1:
        raise UnsupportedOperation(f"{label(func)} with alpha is not defined for paths")
    return x.added(other, func) if carries_paths(x) else other.added(x, torch.add)


def product(func: Function, x: Any, other: Any):
    """Multiplication by a gate, or by a number or constant tensor, which is a gate that is always equally open."""
    if carries_paths(x) and carries_paths(other):
        raise UnsupportedOperation(f"{label(func)} of two tensors that both carry paths is not defined")
    return x.shut(other, func) if carries_paths(x) else other.shut(x, torch.mul)


def quotient(func: Function, x: Any, other: Any):
    """Division by a number."""
    if not isinstance(other, int | float):
        raise UnsupportedOperation(f"{label(func)} by anything but a number is not defined for paths")
    return x.shut(1 / other, lambda u, _: func(u, other))


def rectified(func: Function, x: PathOperations, **kwargs):
    """ReLU: the gate of most networks, which is open or shut and nothing in between."""
    return x.rectified(lambda u: func(u, **kwargs))


def sigmoid(func: Function, x: PathOperations, **kwargs):
    """A gate for what it will multiply."""
    return x.as_gate(lambda u: func(u, **kwargs))


def dropout(func: Function, x: PathOperations, p: float = 0.5, training: bool = True, inplace: bool = False):
    """Off, as in eval mode."""
    if training:
        raise UnsupportedOperation(f"{label(func)} is switched on: paths need a deterministic network")
    return x


def detached(func: Function, x: PathOperations):
    """Nothing: paths are not gradients."""
    return x


def _silu_gate(u: Tensor) -> Tensor:
    return torch.sigmoid(u)


def _leaky_gate(u: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(u > 0, u.new_ones(()), negative_slope)


def _hardtanh_gate(u: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    if not min_val <= 0 <= max_val:
        raise UnsupportedOperation(f"hardtanh between {min_val} and {max_val} is not 0 at 0")
    at_zero = u.new_tensor(float(min_val < 0))
    return torch.where(u == 0, at_zero, u.clamp(min_val, max_val) / u)


def _relu6_gate(u: Tensor) -> Tensor:
    return _hardtanh_gate(u, 0.0, 6.0)


def _prelu_gate(u: Tensor, weight: Tensor) -> Tensor:
    slope = weight.detach().to(u.dtype).view(-1, *[1] * (u.dim() - 2))
    return torch.where(u > 0, u.new_ones(()), slope)


def _elu_gate(u: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(u > 0, u.new_ones(()), torch.where(u == 0, alpha, alpha * torch.expm1(u) / u))


def _mish_gate(u: Tensor) -> Tensor:
    return torch.tanh(F.softplus(u))


def _gelu_gate(u: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return torch.special.ndtr(u)
    return 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)))


GATES: dict[Function, Function] = {
    F.relu6: _relu6_gate,
    F.hardtanh: _hardtanh_gate,
    F.leaky_relu: _leaky_gate,
    torch.prelu: _prelu_gate,
    F.elu: _elu_gate,
    F.mish: _mish_gate,
    F.silu: _silu_gate,
    F.gelu: _gelu_gate,
    F.hardswish: lambda u: (u / 6 + 0.5).clamp(0, 1),
}
"""Activation functions phi by their gate phi(u)/u, called with the function's other arguments.

ReLU's is a rule of its own, `rectified`.
"""

RULES: dict[Function, Function] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d, F.linear), weighted),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), weighted),
    F.batch_norm: batch_norm,
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), max_pool),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), max_pool),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), structural),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), structural),
    **dict.fromkeys((torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape), structural),
    **dict.fromkeys((torch.mean, Tensor.mean, torch.sum, Tensor.sum), structural),
    **dict.fromkeys((torch.permute, Tensor.permute, torch.transpose, Tensor.transpose), structural),
    **dict.fromkeys((torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, Tensor.expand), structural),
    **dict.fromkeys((torch.chunk, Tensor.chunk, torch.split, Tensor.split, Tensor.__getitem__), structural),
    **dict.fromkeys((torch.index_select, Tensor.index_select), structural),
    **dict.fromkeys((Tensor.contiguous, Tensor.clone, torch.clone), structural),
    **dict.fromkeys((torch.detach, Tensor.detach), detached),
    F.interpolate: interpolate,
    F.pad: pad,
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), join),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__), total),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__), product),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__), quotient),
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), rectified),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_), sigmoid),
    **dict.fromkeys((F.sigmoid, F.hardsigmoid), sigmoid),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), dropout),
}
"""Every torch function that paths can go through. Activation functions are in `GATES`."""
