"""The pruned network of a run, repaired before it is judged or trained, and compared with the dense one."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from px_seg.analysis import Preservation, preservation
from px_seg.analysis.cka import FEWEST
from px_seg.config import RunConfig
from px_seg.data.loaders import pruning_batches
from px_seg.devices import copy_from_main, main_only
from px_seg.errors import InputError
from px_seg.pruning import Criterion, Masks, Repair, TrainingCriterion
from px_seg.repair import REPAIRS, check_repair, recalibrate, try_repair
from px_seg.tasks import Task
from px_seg.tasks.base import evenly_cropped


class Start(NamedTuple):
    """What is known of the pruned network before training."""

    preserved: Preservation | None
    """How well it is the dense one, where that was compared."""
    repaired: Preservation | None
    """The same after the repair, if there was one."""
    seconds: float
    """Of the repair."""
    images: int
    """That the repair was given; 0 where there was none."""
    left: tuple[str, ...] = ()
    """What could not be made smaller, in words, where the network was to be."""

    def as_plain(self) -> dict[str, Any]:
        """As a JSON file keeps it."""
        preserved, repaired = (own and own._asdict() for own in (self.preserved, self.repaired))
        return self._asdict() | {"preserved": preserved, "repaired": repaired}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Start":
        """What `as_plain` returned."""
        preserved, repaired = (own and Preservation(**own) for own in (plain["preserved"], plain["repaired"]))
        return cls(preserved, repaired, plain["seconds"], plain["images"], tuple(plain.get("left", ())))


def check_named(recalibration: str) -> None:
    """Raise InputError for a name that `recalibrate` does not take."""
    choices = ("none", *REPAIRS)
    if recalibration not in choices:
        raise InputError(f"there is no recalibration {recalibration!r}: choose one of {', '.join(choices)}")


def check_recalibration(config: RunConfig, criterion: Criterion | None) -> None:
    """Refuse what needs neither data nor network to be refused; the criterion is None where masks are given."""
    check_named(config.recalibrate)
    if config.recalibrate != "none" and config.reinit:
        raise InputError("new weights after pruning are nothing to be repaired: leave --reinit or --recalibrate out")
    if config.recalibrate in ("statistics", "variance") and config.pruning.batch_size < 2:
        raise InputError(
            f"recalibrate {config.recalibrate} takes statistics of whole batches, and pruning.batch_size is "
            f"{config.pruning.batch_size}: raise it, or give --recalibrate reconstruct"
        )
    if config.recalibrate_rounds:
        _check_rounds(config, criterion)


def _check_rounds(config: RunConfig, criterion: Criterion | None) -> None:
    if config.recalibrate == "none":
        raise InputError(
            "recalibrate_rounds repairs as recalibrate says, which is none: give --recalibrate reconstruct as well"
        )
    if criterion is None:
        raise InputError(f"the masks come from {config.masks}, without any rounds: leave --recalibrate_rounds out")
    if isinstance(criterion, TrainingCriterion):
        raise InputError(f"{config.method} trains between its rounds: leave --recalibrate_rounds out")
    if (config.rounds or criterion.rounds_to(config.sparsity)) < 2:
        raise InputError(
            f"{config.method} prunes in one round, so there is nothing to repair between rounds: give --rounds 5, or "
            "leave --recalibrate_rounds out"
        )


def check_repairable(task: Task, model: nn.Module, config: RunConfig) -> None:
    """Refuse a network that cannot be repaired in that way, and a training set too small for the images it takes."""
    if config.recalibrate != "none":
        check_repair(model, config.recalibrate, task.scope)
        task.pruning_draw()


def check_layers(model: nn.Module, task: Task, masks: Masks, config: RunConfig) -> None:
    """Refuse layers that cannot be repaired in that way, as one image shows."""
    if config.recalibrate != "none":
        image, _ = task.train[0, 0]
        try_repair(model, masks, image[None].to(next(model.parameters()).device), config.recalibrate)


def repair(accelerator: Accelerator, model: nn.Module, task: Task, masks: Masks, config: RunConfig) -> Start:
    """Repair the model in place as the configuration says, on the images that pruning draws; the same on all processes.

    The main process works, and compares with the dense network before and after on validation images. Nothing is
    repaired where nothing is pruned.
    """

    def compared_and_repaired() -> Start:
        compare = _comparison(model, task, masks, config)
        preserved = compare(None)
        if config.recalibrate == "none" or masks.density == 1:
            return Start(preserved, None, 0.0, 0)
        started = time.perf_counter()
        images = images_to_repair_by(task)
        recalibrate(model, images, masks, config.recalibrate, scope=task.scope)
        seconds = time.perf_counter() - started
        return Start(preserved, compare(model), seconds, sum(map(len, images)))

    start = main_only(accelerator, compared_and_repaired)
    if config.recalibrate != "none":
        copy_from_main(accelerator, model.state_dict().values())
    return start or Start(None, None, 0.0, 0)


def repair_between_rounds(accelerator: Accelerator, task: Task, config: RunConfig) -> Repair | None:
    """What repairs the network after a round of pruning, the same on all processes; None where that is not asked for.

    The main process works.
    """
    if not config.recalibrate_rounds:
        return None
    images = main_only(accelerator, lambda: images_to_repair_by(task))

    def repair(network: nn.Module, masks: Masks) -> None:
        main_only(accelerator, lambda: recalibrate(network, images or [], masks, config.recalibrate, scope=task.scope))
        copy_from_main(accelerator, network.state_dict().values())

    return repair


def images_to_repair_by(task: Task) -> list[Tensor]:
    """The images of the batches that pruning draws."""
    return [images for images, _ in pruning_batches(task.train, task.pruning_draw())]


def _comparison(
    model: nn.Module, task: Task, masks: Masks, config: RunConfig
) -> Callable[[nn.Module | None], Preservation | None]:
    """Compares what it is given, by default the model as it is now under its masks, with the model as it is now.

    Not without weights, for new ones, where nothing is pruned, and with too few validation images.
    """
    count = config.preservation_images
    if not count or len(task.val) < FEWEST or config.weights == "none" or config.reinit or masks.density == 1:
        return lambda other: None
    judged = evenly_cropped(task, count, config.batch_size)
    dense = model if config.recalibrate == "none" else copy.deepcopy(model)
    return lambda other: preservation(dense, masks, judged, repaired=other)
