"""The exact share of the Neural Tangent Kernel's trace, estimated by random signs."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches, images_of
from px_seg.pruning.criteria.base import InForce, Scores, check_positive, register
from px_seg.pruning.criteria.conserving import ConservingCriterion, conserved
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.masked_network import MaskedNetwork, masked
from px_seg.pruning.modes import evaluating
from px_seg.pruning.paths.walk import leaves
from px_seg.pruning.randomness import generator
from px_seg.pruning.scope import Scope


@register("ntk_trace")
@dataclass(frozen=True)
class NTKTrace(ConservingCriterion):
    """theta_j**2 * sum over samples x and outputs k of (df_k(x)/dtheta_j)**2, the weight's share of the NTK's trace.

    PX's R is an upper bound of the same sum (docs/method.md, section 6). With signs z_xk that are +1 or -1 at
    random and independent, E[(d/dtheta_j sum_xk z_xk f_k(x))**2] is the double sum, so one backward pass of a batch
    estimates it for all weights without bias (Hutchinson, 1990); the mean of `probes` such passes has less noise.
    No labels and no loss. BatchNorm is in eval mode: normalised by a batch, a sample would have no outputs of its own.

    Signs depend on the seed, on the images of their batch and on how many weights live, so that they are new in every
    round, and not on the order of the batches or on which process has which.
    """

    probes: int = 2

    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "probes", whole=True)

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, 0 where a mask prunes them, in at least float32.

        Raises InputError for no batches, for outputs that depend on no weight in scope, and for masks that do not fit.
        """
        with masked(model, masks, scope, evaluating) as network:
            total = network.zeros()

            def own() -> int:
                count = 0
                for images in images_of(batches, network.like):
                    count += 1
                    outputs = list(leaves(network(images)))
                    for probe in range(self.probes):
                        signs = self.signs(outputs, images, network.kept, probe)
                        last = probe == self.probes - 1
                        for name, part in _projected(network, outputs, signs, retain_graph=not last).items():
                            wide = part.to(total[name])
                            total[name].addcmul_(wide, wide)
                return count

            if not any(all_gather(group, run_on_all_ranks(group, own))):
                raise InputError("the criterion needs data: give it at least one batch")
            shares = {
                name: all_reduce(group, total[name]).div_(self.probes).mul_(weight.detach() ** 2).to(weight)
                for name, weight in network.weights.items()
            }
            return conserved(shares, self.conserve)

    def signs(self, outputs: list[Tensor], images: Tensor, kept: int, probe: int) -> list[Tensor]:
        """The signs of one probe, shaped as the model's outputs on these images; `kept` is how many weights live."""
        content = images.to("cpu", torch.float32).contiguous().numpy().tobytes()
        key = (self.seed, kept, probe, hashlib.blake2b(content, digest_size=8).hexdigest())
        source = generator("ntk_trace", *key, device=images.device)
        return [
            torch.randint(0, 2, out.shape, generator=source, dtype=out.dtype, device=out.device).mul_(2).sub_(1)
            for out in outputs
        ]


def _projected(
    network: MaskedNetwork, outputs: list[Tensor], signs: list[Tensor], retain_graph: bool
) -> dict[str, Tensor]:
    """d/dtheta of the outputs' sum under these signs."""
    parts = [(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]
    if not parts:
        raise InputError("the model returns no tensor")
    return network.gradients(torch.stack(parts).sum(), retain_graph=retain_graph)
