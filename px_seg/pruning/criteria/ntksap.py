"""NTK-SAP: how the outputs respond to a small change of the weights, using neither data nor the actual weights."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, one_shape, shapes_of
from px_seg.pruning.criteria.base import Criterion, InForce, Scores, check_positive, register
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.masked_network import MaskedNetwork, gradients, masked
from px_seg.pruning.modes import batch_statistics, evaluating, last_batch_only
from px_seg.pruning.outputs import leaves
from px_seg.pruning.randomness import generator
from px_seg.pruning.scope import Scope, as_list, inside


class Draw(NamedTuple):
    """All that NTK-SAP draws for one batch."""

    images: Tensor
    """Standard normal."""

    weights: dict[str, Tensor]
    """theta of the weights in scope: Kaiming normal, variance 2 / fan-in."""

    changes: dict[str, Tensor]
    """Standard normal, in units of the perturbation."""


@register("ntksap")
@dataclass(frozen=True)
class NTKSAP(Criterion):
    """|dJ/dmask|, J = sum over batches of ||f(X; theta * mask) - f(X; (theta + delta) * mask)||**2.

    Wang, Li and Sun (ICLR 2023, arXiv 2304.02840): J is in expectation proportional to the trace of the Neural Tangent
    Kernel. delta is normal with standard deviation `perturbation`, X is noise of the batch's shape, and theta is drawn
    afresh for every batch, `resamplings` times in each round, so neither the data nor the model's own weights
    count. What is outside `scope` stays as it is, biases too.

    BatchNorms in scope have gamma 1 and beta 0. All are in eval mode with the statistics of X under theta * mask, for
    both outputs, as in the authors' program. (One without running statistics normalises each output by itself.)
    """

    perturbation: float = 0.01
    resamplings: int = 1

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "perturbation")
        check_positive(self, "resamplings", whole=True)

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, 0 where a mask prunes them, in at least float32.

        Draws depend on the seed and on how many weights live, so that they are new in every round, and not
        on the order of the batches. Raises InputError for no batches, for one sample where a BatchNorm sees
        one value a channel, when the outputs do not depend on the weights, and for masks that do not fit.
        """
        scope = as_list(scope)
        with masked(model, masks, scope, evaluating) as network:
            _plain_norms(network, scope)
            live = {
                name: (torch.ones_like(weight) if mask is None else mask.to(weight)).detach().requires_grad_()
                for (name, weight), mask in zip(network.weights.items(), network.live.values(), strict=True)
            }
            shapes, first = _numbered(batches, group)

            def own() -> dict[str, Tensor]:
                total = network.zeros()
                for draw in self.draws(network, shapes, first, network.kept):
                    for name, part in gradients(self._sensitivity(network, draw, live), live).items():
                        total[name] += part
                return total

            total = {name: all_reduce(group, part) for name, part in run_on_all_ranks(group, own).items()}
            return {n: total[n].mul_(mask.detach() != 0).abs_().to(mask) for n, mask in live.items()}

    def draws(
        self, network: MaskedNetwork, shapes: list[torch.Size], first: Mapping[torch.Size, int], kept: int
    ) -> Iterator[Draw]:
        """What is drawn for batches of these shapes; `first` numbers the first of each shape."""
        for resampling in range(self.resamplings):
            number = Counter(first)
            for shape in shapes:
                key = (self.seed, kept, resampling, tuple(shape), number[shape])
                number[shape] += 1
                yield _draw(shape, network, generator("ntksap", *key, device=network.like.device))

    def _sensitivity(self, network: MaskedNetwork, draw: Draw, live: Mapping[str, Tensor]) -> Tensor:
        images = draw.images
        with torch.no_grad(), batch_statistics(network.model), last_batch_only(network.model):
            network(images, {name: weight * live[name] for name, weight in draw.weights.items()})
        changed = {n: weight.add(draw.changes[n], alpha=self.perturbation) for n, weight in draw.weights.items()}
        before = leaves(network(images, {name: weight * live[name] for name, weight in draw.weights.items()}))
        after = leaves(network(images, {name: weight * live[name] for name, weight in changed.items()}))
        changes = [(a - b).square().sum() for a, b in zip(before, after, strict=True)]
        if not changes:
            raise InputError("the model returns no tensor")
        return torch.stack(changes).sum()


def _plain_norms(network: MaskedNetwork, scope: Scope) -> None:
    names = {id(parameter): name for name, parameter in network.model.named_parameters()}
    for name, module in network.model.named_modules():
        if isinstance(module, _BatchNorm) and module.affine and inside(name, scope):
            for parameter, value in ((module.weight, 1.0), (module.bias, 0.0)):
                key = names[id(parameter)]
                network.fixed[key] = torch.full_like(network.fixed[key], value)


def _draw(shape: torch.Size, network: MaskedNetwork, source: torch.Generator) -> Draw:
    like = network.like

    def normal(size: torch.Size) -> Tensor:
        return torch.randn(size, generator=source, dtype=like.dtype, device=like.device)

    images = normal(shape)
    drawn = {n: normal(w.shape).mul_(math.sqrt(2 * w.shape[0] / w.numel())) for n, w in network.weights.items()}
    return Draw(images, drawn, {name: normal(weight.shape) for name, weight in network.weights.items()})


def _numbered(batches: Batches, group: Group) -> tuple[list[torch.Size], Counter[torch.Size]]:
    """The shapes of this process's batches, and how many of each shape the processes before it have."""
    shapes = run_on_all_ranks(group, lambda: shapes_of(batches))
    ranks = all_gather(group, shapes)
    one_shape(shape[1:] for rank in ranks for shape in rank)
    own = 0 if group is None else torch.distributed.get_rank(group)
    return shapes, Counter(shape for rank in ranks[:own] for shape in rank)
