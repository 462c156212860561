"""PX path by path: data and gates weigh every path, not only the outputs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from px_seg.pruning.batches import Batches
from px_seg.pruning.criteria.base import InForce, Scores, register
from px_seg.pruning.criteria.conserving import ConservingCriterion, conserved
from px_seg.pruning.distributed import Group
from px_seg.pruning.paths.gated import gated_total
from px_seg.pruning.scope import Scope


@register("px_paths")
@dataclass(frozen=True)
class PXPaths(ConservingCriterion):
    """theta**2 * dT/d(theta**2), T = sum over samples, outputs and paths of v_p**2 a_p(x) x**2.

    PX's R multiplies, output by output, the sum of v_p**2 over all paths by that of a_p(x) x**2; T takes the products
    path by path, so that it counts which path is open for which image (docs/method.md, section 6). T is linear in each
    theta_j**2 with the gates held, so a score is what T loses without the weight. On images of ones with all gates
    open, in a network without max-pools, T is that of SynFlow-L2.

    Every batch is walked and differentiated: the time of a training step, and the memory of one.
    """

    rounds: ClassVar[int] = 100
    needs_data: ClassVar[bool] = True
    walks_paths: ClassVar[bool] = True

    @property
    def by_paths(self) -> bool:
        """A class with a score of its own may look at anything."""
        return type(self).score is PXPaths.score

    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
        """The scores >= 0 of the weights in `scope`, in at least float32. Conventions and errors are `PX.score`'s."""
        return conserved(gated_total(model, batches, masks, scope, group).scores(), self.conserve)
