"""Tensors that interpret the torch functions of a model by `px_seg.pruning.paths.rules`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from px_seg.pruning.paths.operations import Function, PathOperations, UnsupportedOperation, label
from px_seg.pruning.paths.rules import GATES, RULES, product, structural
from px_seg.pruning.paths.scaled import Scaled
from px_seg.pruning.paths.weights import Weights

METADATA = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda")),
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.__len__, Tensor.is_contiguous, Tensor.is_floating_point),
    *(getattr(Tensor, name).__get__ for name in ("requires_grad", "is_nested")),
}
"""What asks for a tensor's shape or kind, and not for its elements."""

SHAPED_AS: dict[Function, Function] = {
    Tensor.expand_as: Tensor.expand,
    Tensor.view_as: Tensor.view,
    Tensor.reshape_as: Tensor.reshape,
}
"""Functions of a tensor and the shape of another, by those of a tensor and a shape."""


class Shell(torch.Tensor):
    """Shape, dtype and device of a tensor without its elements.

    Torch functions called on it are interpreted. What reaches the elements in another way, such as a
    scripted function, is refused: its result would have lost its paths unnoticed.
    """

    @classmethod
    def like(cls, tensor: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, tensor.shape, dtype=tensor.dtype, device=tensor.device)

    # mypy loses the names of arguments that torch gives no types.
    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{type(self).__name__}{tuple(self.shape)}"

    @classmethod
    def __torch_function__(
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        if "axis" in kwargs:
            kwargs["dim"] = kwargs.pop("axis")
        if func in SHAPED_AS:
            func, args = SHAPED_AS[func], (args[0], args[1].shape)
            if not isinstance(args[0], Shell):
                return func(*args)
        return cls.interpreted(func, args, kwargs)

    @classmethod
    def interpreted(cls, func: Function, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the function means for this kind of tensor."""
        raise NotImplementedError

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares a function that is not given the class
        cls, func: Function, types: Iterable[type], args: tuple = (), kwargs: Any = None
    ) -> Any:
        raise UnsupportedOperation(
            f"{func} is called by code that hides it from torch functions, such as a scripted function"
        )


class PathTensor(Shell, PathOperations):
    """A stream at one point of the network; a torch function of it follows `RULES`.

    The tensor itself serves for shape, dtype and device only. The subclasses say what each kind of
    operation does to their stream.
    """

    stream: Scaled
    weights: Weights

    @classmethod
    def interpreted(cls, func, args, kwargs):
        device = next((arg.device.type for arg in args if isinstance(arg, Tensor)), "cpu")
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return cls.interpreted(func, args, kwargs)
        if func not in RULES and func not in GATES:
            raise UnsupportedOperation(f"{label(func)} is not defined for paths")
        if kwargs.pop("out", None) is not None:
            raise UnsupportedOperation(f"{label(func)} writes to a tensor given as `out`, which paths cannot follow")
        target = args[0] if works_in_place(func, kwargs) else None
        if target is not None:
            check_in_place(func, target)
        try:
            result = _gated(func, *args, **kwargs) if func in GATES else RULES[func](func, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedOperation(
                f"{label(func)} is called in a way that its rule does not support: {error}"
            ) from error
        if target is None:
            return result
        # An in-place function keeps the shape: it is enough to replace what the tensor carries.
        if result is not target:
            views = getattr(target, "views", None)
            target.__class__, target.__dict__ = result.__class__, result.__dict__
            target.views = views
        return target


class Gate(Shell):
    """A sigmoid's output: it multiplies features and carries no paths of its own."""

    value: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Gate:
        tensor = cls.like(value)
        tensor.value = value
        return tensor

    @classmethod
    def interpreted(cls, func, args, kwargs):
        rule = RULES.get(func)
        if rule is product and not works_in_place(func, kwargs) and any(isinstance(arg, PathTensor) for arg in args):
            return product(func, *args, **kwargs)
        if rule is structural:
            value = func(args[0].value, *args[1:], **kwargs)
            return tuple(cls.of(part) for part in value) if isinstance(value, tuple | list) else cls.of(value)
        raise UnsupportedOperation(f"{label(func)} of a sigmoid's output is not defined for paths")


def cast(tensor: Any, like: Tensor) -> Any:
    """A tensor in the dtype of another; anything else as it is."""
    return tensor.detach().to(like.dtype) if isinstance(tensor, Tensor) else tensor


def _gated(func: Function, x: PathTensor, *args, **kwargs) -> PathTensor:
    args = tuple(cast(arg, x) for arg in args)
    settings = {name: value for name, value in kwargs.items() if name != "inplace"}
    return x.gated(lambda u: func(u, *args, **kwargs), lambda u: GATES[func](u, *args, **settings))


def works_in_place(func: Function, kwargs: dict[str, Any]) -> bool:
    """Whether a torch function called with these arguments by name overwrites its first one."""
    name = getattr(func, "__name__", "")
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def note_view(part: Any, whole: Any) -> None:
    """Remembers with both tensors that their true activations share memory, where they do."""
    if part.true.untyped_storage().data_ptr() == whole.true.untyped_storage().data_ptr():
        part.views = whole.views
        part.views.append(weakref.ref(part))


def check_in_place(func: Function, target: Any) -> None:
    """Raises UnsupportedOperation for an in-place function on what carries no paths, or shares memory in use."""
    if not isinstance(target, PathTensor):
        raise UnsupportedOperation(f"{label(func)} writes paths into a tensor that carries none")
    if sum(view() is not None for view in getattr(target, "views", None) or ()) > 1:
        raise UnsupportedOperation(f"{label(func)} works in place on memory that other tensors in use share")
