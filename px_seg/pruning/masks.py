"""Masks: which weights live."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.files import parse_json, replacing
from px_seg.pruning.holding import held_at_zero
from px_seg.pruning.provenance import Provenance
from px_seg.pruning.randomness import generator
from px_seg.pruning.rankings import Ranking
from px_seg.pruning.scope import Scope, prunable
from px_seg.pruning.selection import top, unrankable

_FORMAT = "px_seg.masks/1"


class Masks(Mapping[str, Tensor]):
    """A mapping from parameter name to a boolean tensor of the parameter's shape; True lives.

    Immutable: every operation that changes a mask returns new Masks. `provenance` says what is known of
    where the masks came from, and travels with the file.

    Raises ValueError for a tensor that holds anything but 0 and 1.
    """

    def __init__(self, masks: Mapping[str, Tensor], provenance: Provenance | None = None) -> None:
        self._masks: dict[str, Tensor] = {}
        for name, mask in masks.items():
            live = mask.bool()
            if mask.dtype != torch.bool and not torch.equal(live.to(mask.dtype), mask):
                raise ValueError(f"the mask of {name} holds values other than 0 and 1")
            self._masks[name] = live
        self.provenance = Provenance() if provenance is None else provenance

    @classmethod
    def ones(cls, model: nn.Module, scope: Scope = None) -> "Masks":
        """Masks that keep every convolution and linear weight in `scope`, on the weights' devices."""
        return cls({n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model, scope).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        """Whether both keep the same weights of the same tensors, wherever they come from."""
        if not isinstance(other, Masks):
            return NotImplemented
        return self._masks.keys() == other._masks.keys() and all(torch.equal(m, other[n]) for n, m in self.items())

    # object declares a method, and no type for a class without one.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept:,} of {self.total:,} weights live)"

    @property
    def total(self) -> int:
        """Number of weights the masks cover."""
        return sum(mask.numel() for mask in self.values())

    @cached_property
    def kept(self) -> int:
        """Number of weights that live."""
        return sum(int(mask.count_nonzero()) for mask in self.values())

    @property
    def density(self) -> float:
        """Share of the weights that live, in [0, 1]."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """Share of the weights that are pruned, in [0, 1]."""
        return 1 - self.density

    def densities(self) -> dict[str, float]:
        """The density of every tensor, by name."""
        return {name: int(mask.count_nonzero()) / mask.numel() for name, mask in self.items()}

    def with_provenance(self, **changes: Any) -> "Masks":
        """The same masks with these fields of their provenance changed."""
        return Masks(self, replace(self.provenance, **changes))

    def beside(self, model: nn.Module) -> "Masks":
        """The same masks, each on the device of the model's parameter of that name."""
        devices = {name: parameter.device for name, parameter in model.named_parameters()}
        return Masks({name: mask.to(devices[name]) for name, mask in self.items()}, self.provenance)

    def keep_top(self, scores: Mapping[str, Tensor], density: float, ranking: Ranking = top) -> "Masks":
        """The highest-scoring live weights, by default ranked over all tensors together.

        Keeps exactly round(density * total) weights. Among equal scores those that come
        first live, in the order of the tensors and of the elements inside them, so every
        process and device breaks ties alike. A pruned weight never returns.

        Raises InputError when a score is missing, misshapen, NaN or infinite, or when more weights are
        asked for than live.
        """
        if not 0 <= density <= 1:
            raise InputError(f"density must be in [0, 1], got {density}")
        count = round(density * self.total)
        if not 0 <= count <= self.kept:
            raise InputError(f"cannot keep {count} weights: {self.kept} of {self.total} are live")
        ranked, live = self._ranked(scores), list(self.values())
        return Masks(dict(zip(self, ranking(ranked, live, count), strict=True)), self.provenance)

    def _ranked(self, scores: Mapping[str, Tensor]) -> list[Tensor]:
        """The scores in the order of the masks, in one dtype. InputError for what cannot be ranked."""
        if not isinstance(scores, Mapping):
            raise InputError(f"scores must be tensors by parameter name, got {type(scores).__name__}")
        for name, mask in self.items():
            score = scores.get(name)
            if not isinstance(score, Tensor) or score.shape != mask.shape or score.is_complex():
                raise InputError(f"no score of shape {tuple(mask.shape)} for {name}")
        # One dtype, or a threshold would round to that of each tensor.
        dtype = functools.reduce(torch.promote_types, (scores[name].dtype for name in self))
        dtype = dtype if dtype.is_floating_point else torch.float64
        ranked = [scores[name].detach().to(self[name].device, dtype) for name in self]
        if places := unrankable(ranked, list(self.values())):
            raise InputError(f"the scores of {list(self)[places[0]]} hold NaN or infinity")
        return ranked

    def shuffled(self, seed: int) -> "Masks":
        """Masks that keep as many weights of every tensor, at places drawn at random from the seed alone."""
        source = generator("shuffle", seed)
        masks = {}
        for name, mask in self.items():
            order = torch.randperm(mask.numel(), generator=source, device="cpu").to(mask.device)
            masks[name] = mask.flatten()[order].view(mask.shape)
        return Masks(masks, self.provenance)

    def check(self, model: nn.Module) -> None:
        """Raise InputError naming the first mask that does not fit the model's parameters, or a weight without one.

        Every weight in the scope that the masks were made for, if they state it, must have one: all names may fit a
        larger model of the same kind and still leave weights over.
        """
        check_fit(self, dict(model.named_parameters()))
        if self.provenance.scope is not None:
            expected = prunable(model, self.provenance.scope or None)
            if left := [name for name in expected if name not in self]:
                raise InputError(f"the masks leave out {len(left)} of the weights, such as {left[0]}")

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the model's pruned weights to 0, in place."""
        self.check(model)
        parameters = dict(model.named_parameters())
        for name, mask in self.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

    def revived(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """How many pruned weights are not 0 in a state dict, by tensor; empty when all hold."""
        counts = {n: int(weights[n].detach()[~m.to(weights[n].device)].count_nonzero()) for n, m in self.items()}
        return {name: count for name, count in counts.items() if count}

    @contextmanager
    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Within the context the pruned weights of `model` stay exactly 0 through training.

        Their gradients are set to 0 as they arrive, so that clipping, norms and optimizer
        state see a sparse network; what the optimizer remembers of them from before becomes 0.
        Optimizers whose update does not vanish with both have the weights set to 0 again after
        every step. `optimizer` is the one whose `step` really runs, not a wrapper.
        """
        self.apply(model)
        parameters = dict(model.named_parameters())
        with held_at_zero({parameters[name]: mask for name, mask in self.items()}, optimizer):
            yield

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file: one bit a weight, shapes and provenance in the header.

        The file appears whole or not at all (`px_seg.files.replacing`). Raises InputError for a path that cannot
        be a file.
        """
        packed = {n: torch.from_numpy(np.packbits(m.cpu().numpy().reshape(-1))) for n, m in self.items()}
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.items()})
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"masks cannot be written to {path}: it is a folder, or its folder is missing")
        with replacing(path) as fresh:
            save_file(packed, fresh, metadata={**self.provenance.header(), "format": _FORMAT, "shapes": shapes})

    @classmethod
    def load(cls, path: str | PathLike[str], model: nn.Module | None = None) -> "Masks":
        """Read a file that `save` wrote; the masks are on the CPU, in the order they were saved.

        Raises InputError when the file is missing, is not a safetensors file or holds no masks, when what it
        says of their provenance cannot be read, and naming the tensor when one does not fit `model`, or when
        weights of the scope they were made for have none.
        """
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder: name the mask file in it")
        if Path(path).exists() and not Path(path).is_file():
            # A pipe would be waited for.
            raise InputError(f"{path} is not a file")
        try:
            with safe_open(path, framework="numpy") as file:
                header = dict(file.metadata() or {})
                if header.pop("format", None) != _FORMAT:
                    raise InputError(f"{path} is a safetensors file, but holds no masks")
                shapes = {name: tuple(shape) for name, shape in parse_json(header.pop("shapes")).items()}
                bits = {name: file.get_tensor(name) for name in shapes}
        except FileNotFoundError:
            raise InputError(f"there is no mask file {path}") from None
        except InputError:
            raise
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path} is not a readable mask file: {error}") from None
        if any(type(side) is not int or not 0 <= side < 2**31 for shape in shapes.values() for side in shape):
            raise InputError(f"{path} is damaged: its shapes are not whole numbers")
        masks = {}
        for name, shape in shapes.items():
            if bits[name].dtype != np.uint8 or bits[name].shape != ((math.prod(shape) + 7) // 8,):
                raise InputError(f"{path} is damaged: the bits of {name} do not fill its shape {shape}")
            live = np.unpackbits(bits[name], count=math.prod(shape)).astype(bool)
            masks[name] = torch.from_numpy(live).view(shape)
        try:
            loaded = cls(masks, Provenance.parse(header))
        except InputError as error:
            raise InputError(f"{path} is damaged: {error}") from None
        if model is not None:
            try:
                loaded.check(model)
            except InputError as error:
                raise InputError(f"{path} is not for this model: {error}") from None
        return loaded


def check_fit(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raise InputError naming the first mask that does not fit the parameters."""
    for name, mask in masks.items():
        if name not in parameters:
            raise InputError(f"there is a mask for {name}, which the model does not have")
        if parameters[name].shape != mask.shape:
            raise InputError(
                f"the mask of {name} has shape {tuple(mask.shape)}, but the model's weight has "
                f"{tuple(parameters[name].shape)}"
            )
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"the mask of {name} holds values other than 0 and 1")
