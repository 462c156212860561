"""Trainings that a criterion prunes by, which are as long as the run's own and interrupted as well."""

from accelerate import Accelerator
from torch import nn

from px_seg.config import RunConfig
from px_seg.data.loaders import Loader
from px_seg.errors import TrainingDiverged
from px_seg.identity import digest
from px_seg.pruning import Masks
from px_seg.run.checkpoints import CheckpointKeeper, Checkpoints, Interval
from px_seg.run.training import Position, fine_tune, prepare
from px_seg.tasks import Task
from px_seg.termination import Termination


def train_under(
    accelerator: Accelerator,
    model: nn.Module,
    masks: Masks,
    task: Task,
    loader: Loader,
    config: RunConfig,
    epochs: int,
    checkpoints: Checkpoints,
    termination: Termination,
) -> None:
    """Train the model in place under the masks, from its start to the end of the schedule, without evaluation.

    A run that is resumed goes on from a checkpoint of the training under these masks, if there is one. Raises
    TrainingDiverged when the loss is not finite, and Stopped where it is told to end.
    """
    prepared = prepare(accelerator, model, task, loader, config, epochs)
    known = {"masks": digest(masks.values())}
    saved, start = checkpoints.find() if config.resume else None, Position()
    if saved is not None and saved.known == known:
        checkpoints.restore(saved, prepared)
        start = saved.position
    every = Interval.parse(config.checkpoint_every)
    keeper = CheckpointKeeper(checkpoints, every, termination, prepared, masks, lambda: known)
    try:
        with masks.hold(model, prepared.optimizer):
            for _ in fine_tune(accelerator, task, prepared, epochs, keeper, start):
                pass
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{error}, in a training that {config.method} prunes by") from None
    # What Accelerate remembers of this training would be part of the next one's checkpoints.
    accelerator.free_memory()
