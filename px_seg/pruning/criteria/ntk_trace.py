"""The weights' part in the Neural Tangent Kernel's trace itself, estimated by random signs."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import NO_IMAGES, Batches, images_of
from px_seg.pruning.criteria.base import InForce, Scores, check_positive, register
from px_seg.pruning.criteria.conserving import ConservingCriterion, conserved
from px_seg.pruning.distributed import Group, all_gather, all_reduce, run_on_all_ranks
from px_seg.pruning.masked_network import MaskedNetwork, masked
from px_seg.pruning.modes import evaluating
from px_seg.pruning.outputs import leaves
from px_seg.pruning.randomness import generator
from px_seg.pruning.scope import Scope


@register("ntk_trace")
@dataclass(frozen=True)
class NTKTrace(ConservingCriterion):
    """theta_j**2 * sum over samples x and outputs k of (df_k(x)/dtheta_j)**2.

    The double sum is the weight's part of the trace of the Neural Tangent Kernel, of which dR/d(theta_j**2) in PX is a
    bound (docs/method.md, section 6). With signs z_xk that are +1 or -1 at
    random and independent, E[(d/dtheta_j sum_xk z_xk f_k(x))**2] is the double sum, so one backward pass
    estimates it for all weights without bias (Hutchinson, 1990); the mean of `probes` such passes has less noise.
    No labels and no loss. BatchNorm is in eval mode: normalised by a batch, a sample would have no outputs of its own.

    A pass takes `pass_size` images of a batch, or all where that is 0. Mixed terms between the images of a pass vanish
    in the mean only: over n images the relative error of a score is about sqrt(2 * pass_size / (n * probes)), while the
    operations do not depend on `pass_size`. A GPU that larger passes would fill is better used with more probes.

    Signs depend on the seed, on the images of their pass and on how many weights live, so that they are new in every
    round, and not on the order of the batches or on which process has which.
    """

    probes: int = 2
    pass_size: int = 4

    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "probes", whole=True)
        if isinstance(self.pass_size, bool) or not isinstance(self.pass_size, int) or self.pass_size < 0:
            raise InputError(f"NTKTrace: pass_size must be a whole number, 0 for whole batches; got {self.pass_size!r}")

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, 0 where a mask prunes them, in at least float32.

        Raises InputError for no batches, for outputs that depend on no weight in scope, and for masks that do not fit.
        """
        with masked(model, masks, scope, evaluating) as network:
            total, kept, seen = network.zeros(), network.kept, Counter[str]()

            def own() -> bool:
                for batch in images_of(batches, network.like):
                    for images in torch.split(batch, self.pass_size or len(batch)):
                        content = _digest(images)
                        seen[content] += 1
                        outputs = list(leaves(network(images)))
                        for probe in range(self.probes):
                            signs = self.signs(outputs, kept, content, seen[content], probe)
                            last = probe == self.probes - 1
                            for name, part in _projected(network, outputs, signs, retain_graph=not last).items():
                                wide = part.to(total[name])
                                total[name].addcmul_(wide, wide)
                return bool(seen)

            if not any(all_gather(group, run_on_all_ranks(group, own))):
                raise InputError(NO_IMAGES)
            shares = {
                name: all_reduce(group, total[name]).div_(self.probes).mul_(weight.detach().to(total[name]) ** 2)
                for name, weight in network.weights.items()
            }
            return {name: score.to(network.like) for name, score in conserved(shares, self.conserve).items()}

    def signs(self, outputs: list[Tensor], *key: object) -> list[Tensor]:
        """Signs shaped as the model's outputs, drawn from the seed and `key`."""
        source = generator("ntk_trace", self.seed, *key, device=outputs[0].device) if outputs else None
        return [
            torch.randint(0, 2, out.shape, generator=source, dtype=out.dtype, device=out.device).mul_(2).sub_(1)
            for out in outputs
        ]


def _digest(images: Tensor) -> str:
    """What the images are, whatever their dtype and device."""
    return hashlib.blake2b(images.to("cpu", torch.float32).contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def _projected(
    network: MaskedNetwork, outputs: list[Tensor], signs: list[Tensor], retain_graph: bool
) -> dict[str, Tensor]:
    """d/dtheta of the outputs' sum under these signs."""
    parts = [(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]
    if not parts:
        raise InputError("the model returns no tensor")
    return network.gradients(torch.stack(parts).sum(), retain_graph=retain_graph)
