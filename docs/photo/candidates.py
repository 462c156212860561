"""Candidates of the search for a criterion that beats magnitude from trained weights: docs/photo.md reports on them.

px_seg preservation --criteria docs/photo/candidates.py --methods magnitude,trace_densities ...
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from px_seg import Criterion, InputError, Magnitude, NTKTrace, prunable, recalibrate, register
from px_seg.pruning.batches import images_of
from px_seg.pruning.distributed import Group
from px_seg.pruning.modes import evaluating
from px_seg.repair.reconstruction import unfolded


def grafted(choosing: dict[str, Tensor], spreading: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores that rank the weights of a layer as `choosing` does, and layers among each other as `spreading` does.

    In every layer the r-th best by the one gets the r-th highest score of the other, so that at any sparsity the
    layers keep as many weights as under `spreading`.
    """
    found = {}
    for name, own in choosing.items():
        order = own.flatten().argsort(descending=True, stable=True)
        scores = torch.empty_like(spreading[name].flatten())
        scores[order] = spreading[name].flatten().sort(descending=True).values
        found[name] = scores.view_as(own)
    return found


@register("trace_densities")
@dataclass(frozen=True)
class TraceDensities(Criterion):
    """The layer densities of ntk_trace, the weights of magnitude."""

    needs_data: ClassVar[bool] = True

    def score(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return grafted(Magnitude().score(*args, **kwargs), NTKTrace(seed=self.seed).score(*args, **kwargs))


@register("magnitude_densities")
@dataclass(frozen=True)
class MagnitudeDensities(Criterion):
    """The layer densities of magnitude, the weights of ntk_trace."""

    needs_data: ClassVar[bool] = True

    def score(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return grafted(NTKTrace(seed=self.seed).score(*args, **kwargs), Magnitude().score(*args, **kwargs))


@register("brain_surgeon")
@dataclass(frozen=True)
class BrainSurgeon(Criterion):
    """theta^2 / (H^-1)_jj, what the layer's squared error grows by, as a share of its squared outputs.

    H is the second moment of the layer's inputs about 0 (Hassibi and Stork, NeurIPS 1992), with 1% of its mean diagonal
    as ridge; reconstruction takes it about the mean where a bias or a norm can take up the rest.
    """

    needs_data: ClassVar[bool] = True

    def score(self, model: nn.Module, batches=(), masks=None, scope=None, group=None) -> dict[str, Tensor]:
        _check_alone(group)
        weights = prunable(model, scope)
        owners = {f"{path}.weight": module for path, module in model.named_modules()}
        layers = {name: owners[name] for name in weights}
        with torch.no_grad(), evaluating(model), _moments(layers) as moments:
            for images in images_of(batches, next(iter(weights.values()))):
                model(images)
        found = {}
        for name, weight in weights.items():
            gram, energy = moments[name]
            gram.diagonal(dim1=1, dim2=2).add_(0.01 * gram.diagonal(dim1=1, dim2=2).mean())
            rows = weight.detach().double().flatten(1).view(len(gram), -1, gram.shape[1])
            growth = rows**2 / torch.linalg.inv(gram).diagonal(dim1=1, dim2=2)[:, None]
            found[name] = (growth / energy).view_as(weight).to(weight)
        return found


@contextmanager
def _moments(layers: dict[str, nn.Conv2d]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """By layer the sum of products of its inputs, (groups, K, K), and that of its squared outputs, over all batches."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    busy: set[str] = set()

    def note(name: str, module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        # The layer that lays its inputs out is called again.
        if name not in busy:
            busy.add(name)
            columns = unfolded(module, inputs[0], module.groups).flatten(0, 1).double()
            busy.remove(name)
            add(name, columns.view(len(columns), module.groups, -1).movedim(1, 0), output)

    def add(name: str, columns: Tensor, output: Tensor) -> None:
        gram, energy = columns.mT @ columns, output.double().square().sum()
        if name in found:
            gram, energy = gram + found[name][0], energy + found[name][1]
        found[name] = gram, energy

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs, output))
        for name, module in layers.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _check_alone(group: Group) -> None:
    if group is not None:
        raise InputError("the candidates of the search score in one process: leave the others out")


@dataclass(frozen=True)
class _Between(Criterion):
    """Scores of the network reconstructed under the masks in force."""

    rounds: ClassVar[int] = 5
    needs_data: ClassVar[bool] = True
    inner: ClassVar[type[Criterion]]

    def score(self, model: nn.Module, batches=(), masks=None, scope=None, group=None) -> dict[str, Tensor]:
        _check_alone(group)
        network = copy.deepcopy(model)
        if masks is not None and any(not mask.all() for mask in masks.values()):
            recalibrate(network, batches, masks, "reconstruct")
        return self.inner(seed=self.seed).score(network, batches, masks, scope)


@register("magnitude_between")
@dataclass(frozen=True)
class MagnitudeBetween(_Between):
    """Magnitude in five rounds, with reconstruction between them."""

    inner: ClassVar[type[Criterion]] = Magnitude


@register("trace_between")
@dataclass(frozen=True)
class TraceBetween(_Between):
    """The trace's share in five rounds, with reconstruction between them."""

    inner: ClassVar[type[Criterion]] = NTKTrace
