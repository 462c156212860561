"""Criteria that use the loss: SNIP, GraSP and the empirical Fisher information."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.losses import cross_entropy
from px_seg.pruning.batches import NO_IMAGES, Batches, checked_batches, labelled, shapes_of
from px_seg.pruning.criteria.base import Criterion, InForce, Scores, check_positive, register
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.masked_network import MaskedNetwork, masked
from px_seg.pruning.modes import batch_statistics, evaluating
from px_seg.pruning.scope import Scope


@dataclass(frozen=True, kw_only=True)
class LossCriterion(Criterion):
    """A criterion that differentiates a loss; batches are pairs of images and targets.

    `loss(outputs, targets)` is a scalar; by default cross-entropy over classes, 255 ignored in label maps.
    """

    loss: Callable[..., Tensor] = field(default=cross_entropy, repr=False)

    needs_data: ClassVar[bool] = True


@register("snip")
@dataclass(frozen=True)
class SNIP(LossCriterion):
    """|theta * dL/dtheta|, L the sum of the batches' losses (Lee, Ajanthan, Torr, ICLR 2019, arXiv 1810.02340).

    BatchNorm normalises by each batch, as in training, in the authors' program and in that of
    PX's paper. Dropout is off, so that nothing is drawn.
    """

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, in at least float32.

        Raises InputError for batches without targets, of one sample where a BatchNorm sees one
        value a channel, and for masks that do not fit.
        """
        with masked(model, masks, scope, batch_statistics) as network:

            def gradients_of(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                return network.gradients(self.loss(network(images), targets))

            gradients = _summed(network, batches, group, gradients_of)
            return {n: gradients[n].mul_(w.detach()).abs_().to(w) for n, w in network.weights.items()}


@register("iterative_snip")
@dataclass(frozen=True)
class IterativeSNIP(SNIP):
    """SNIP in rounds, each on the network that the former left (de Jorge et al., ICLR 2021)."""

    rounds: ClassVar[int] = 100


@register("grasp")
@dataclass(frozen=True)
class GraSP(LossCriterion):
    """theta * Hg: the gradient flow that goes with the weight (Wang, Zhang, Grosse, ICLR 2020, arXiv 2002.07376).

    g and H are gradient and Hessian of L, the sum of the batches' losses of outputs / `temperature`. To first order,
    removing weight j changes the squared norm of g by -2 theta_j (Hg)_j. The paper removes the weights for
    which this is largest; so theta_j (Hg)_j is the score, and those stay whose removal would reduce the
    gradient flow most. Scores have either sign: a negative one marks a weight without which gradients grow.

    BatchNorm normalises by each batch, as in training, in the authors' program and in that of
    PX's paper. Dropout is off, so that nothing is drawn.
    """

    temperature: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores of the weights in `scope`, of either sign, in at least float32. Raises what `SNIP.score` does."""
        batches = list(checked_batches(batches))
        with masked(model, masks, scope, batch_statistics) as network:

            def gradients_of(images: Tensor, targets: Tensor, create_graph: bool = False) -> dict[str, Tensor]:
                loss = self.loss(_divided(network(images), self.temperature), targets)
                return network.gradients(loss, create_graph)

            total = _summed(network, batches, group, gradients_of)
            gradients = {name: total[name].to(weight) for name, weight in network.weights.items()}

            def products_of(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                own = gradients_of(images, targets, create_graph=True)
                flow = torch.stack([(gradients[name] * part).sum() for name, part in own.items()]).sum()
                return network.gradients(flow)

            products = _summed(network, batches, group, products_of)
            return {n: products[n].mul_(w.detach()).to(w) for n, w in network.weights.items()}


@register("fisher")
@dataclass(frozen=True)
class Fisher(LossCriterion):
    """theta**2 * mean over samples of (dL_n/dtheta)**2, the diagonal of the empirical Fisher information.

    L_n is the loss of one sample. As a criterion it is due to Theis et al. (2018, arXiv 1801.05787) and, at
    initialisation, Gollini Navarrete et al. (2025, arXiv 2502.11450). BatchNorm is in eval mode: normalised by
    a batch, a sample would have no gradient of its own.
    """

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, in at least float32.

        Raises InputError for batches without targets and for masks that do not fit.
        """
        batches = list(checked_batches(batches))
        with masked(model, masks, scope, evaluating) as network:

            def squares_of(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                squares: dict[str, Tensor] = {}
                for sample, target in zip(torch.split(images, 1), torch.split(targets, 1), strict=True):
                    for name, part in network.gradients(self.loss(network(sample), target)).items():
                        squares[name] = squares[name].addcmul_(part, part) if name in squares else part.square()
                return squares

            squares = _summed(network, batches, group, squares_of)
            samples = sum(all_gather(group, sum(shape[0] for shape in shapes_of(batches))))
            return {n: squares[n].mul_(w.detach() ** 2).div_(samples).to(w) for n, w in network.weights.items()}


def _summed(
    network: MaskedNetwork, batches: Batches, group: Group, part: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The sum of `part(images, targets)` over the batches of all processes, by parameter name."""
    total = network.zeros()

    def own() -> int:
        count = 0
        for images, targets in labelled(batches, network.like):
            count += 1
            for name, addend in part(images, targets).items():
                total[name] += addend
        return count

    if not any(all_gather(group, run_on_all_ranks(group, own))):
        raise InputError(NO_IMAGES)
    return {name: all_reduce(group, part) for name, part in total.items()}


def _divided(outputs: Any, by: float) -> Any:
    """A model's outputs divided, in the structure they have."""
    if isinstance(outputs, Tensor):
        return outputs / by
    if isinstance(outputs, Mapping):
        return {name: _divided(part, by) for name, part in outputs.items()}
    return type(outputs)(_divided(part, by) for part in outputs)
