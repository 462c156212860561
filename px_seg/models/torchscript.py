"""The tensors of a TorchScript archive, read without running what else is in it."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from px_seg.errors import InputError

DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(file: Path) -> bool:
    """Whether the file is an archive that `torch.jit.save` wrote."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archived module, by name, on the CPU.

    No code of the archive is compiled or run: of its pickle only dictionaries, tensors, plain values and
    the attributes of modules are built, and anything else is refused.

    Raises InputError when the archive is damaged or asks for something else to be built.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            described = min((name for name in archive.namelist() if name.endswith("/data.pkl")), key=len)
            root = _Reader(archive, described.removesuffix("data.pkl")).load()
            tensors = dict(_tensors(root, "")) if isinstance(root, _Module) else None
    except _Refused as error:
        raise InputError(f"{file} is a TorchScript archive that holds more than tensors: {error}") from None
    except Exception as error:
        # Damaged archives fail in the unpickler or the zip reader, in ways of their own.
        raise InputError(f"{file} is a damaged TorchScript archive ({type(error).__name__})") from error
    if tensors is None:
        raise InputError(f"{file} is a TorchScript archive of a {type(root).__name__}, not of a module")
    return tensors


class _Refused(Exception):
    """The pickle asks for something that is not a tensor, container or module."""


class _Module:
    """A scripted module or object, as the attributes that were saved of it."""

    attributes: ClassVar[dict[str, Any]] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refused(f"a module's state is a {type(state).__name__}")
        self.__dict__["attributes"] = state


class _Storage:
    """Stands for a storage class of torch, of which only the dtype is needed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _First:
    """Gives its first argument back. Without a dictionary, so that no pickle can set an attribute of it."""

    __slots__ = ()

    def __call__(self, value: Any, *_: Any) -> Any:
        return value


class _Rebuilt:
    """A tensor from its storage, as `torch._utils._rebuild_tensor_v2`; without a dictionary as well."""

    __slots__ = ()

    def __call__(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        # A stride beyond the storage is refused by torch.
        return torch.as_strided(storage, size, stride, offset).clone()


class _Reader(pickle.Unpickler):
    allowed: ClassVar[dict[tuple[str, str], Callable]] = {
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        ("torch.jit._pickle", "restore_type_tag"): _First(),
        ("torch._utils", "_rebuild_parameter"): _First(),
        ("torch._utils", "_rebuild_tensor_v2"): _Rebuilt(),
    }

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in DTYPES:
            return _Storage(DTYPES[name])
        if (module, name) not in self.allowed:
            raise _Refused(f"it names {module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, reference: Any) -> Tensor:
        kind, storage, key, _, count = reference
        if kind != "storage" or not isinstance(storage, _Storage):
            raise _Refused("it refers to something outside")
        if key not in self.storages:
            raw = self.archive.read(f"{self.folder}data/{key}")
            values = torch.frombuffer(bytearray(raw), dtype=storage.dtype) if raw else torch.empty(0).to(storage.dtype)
            self.storages[key] = values[:count]
        return self.storages[key]


def _tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield prefix + name, value
