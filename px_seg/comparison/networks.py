"""The network of a subject: its start, pruned, before any training."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from px_seg.comparison.kind import Key
from px_seg.comparison.subjects import Subject, results_of
from px_seg.data.loaders import pruning_batches
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.identity import digest, sha256_of
from px_seg.pruning import Criterion, Masks, carry_out
from px_seg.repair import recalibrate
from px_seg.run.repairing import check_layers, images_to_repair_by, repair_between_rounds
from px_seg.run.setup import Pruning, Setup, check_same_data, data_of, set_up
from px_seg.run.sparsify import Batches, equip, reinitialise, try_out
from px_seg.run.user_criteria import naming_file
from px_seg.tasks import Task
from px_seg.tasks.base import spread

TRAIN_IMAGES = 64
"""How many training images are looked at, evenly spread, to see whether rows are of the same ones."""


class Pruned(NamedTuple):
    """A network that is pruned and not trained."""

    key: Key
    dense: nn.Module
    """What it was before, on its device."""
    network: nn.Module
    """Itself, with weights for the pruned ones; another object where it was repaired or has new weights."""
    masks: Masks
    scope: str
    """The part that is pruned."""
    seconds: float
    """That finding the masks took, here or in its run."""


class Prepared(NamedTuple):
    """What a network is made of, seen to work on two images."""

    setup: Setup
    criterion: Criterion | None
    """None where its masks are a run's."""
    batches: Batches


def prepared(task_type: type[Task], subject: Subject) -> Prepared:
    """The start of a subject's network, and what prunes it. InputError for what cannot be done, or is not the run's."""
    setup = set_up(task_type, subject.config)
    held = results_of(subject)
    loaded = held.get("weights_loaded")
    if setup.loaded is not None and isinstance(loaded, Mapping) and loaded.get("digest") != setup.loaded.digest:
        raise InputError(
            f"the run in {subject.run} began with other weights than {subject.config.weights} are now: restore those"
        )
    if subject.run is not None:
        check_same_data(held, subject.run, data_of(setup.task))
    setup.model.to(setup.accelerator.device)
    setup.task.fit_head(setup.model, setup.accelerator)
    if isinstance(setup.source, Masks):
        check_layers(setup.model, setup.task, setup.source, subject.config)
        return Prepared(setup, None, [])
    criterion = equip(setup.source.criterion, setup.task, _never)
    batches = pruning_batches(setup.task.train, setup.source.drawn)
    try_out(setup.model, setup.source.plan, batches, criterion, subject.config.method)
    check_layers(setup.model, setup.task, setup.source.plan.start, subject.config)
    return Prepared(setup, criterion, batches)


def pruned(task_type: type[Task], subject: Subject) -> Pruned:
    """The subject's network, pruned, and repaired where its configuration says so."""
    setup, criterion, batches = prepared(task_type, subject)
    model, task, config = setup.model, setup.task, subject.config
    started = time.perf_counter()
    if isinstance(setup.source, Pruning):
        assert criterion is not None
        with naming_file(criterion, config.method):
            between = repair_between_rounds(setup.accelerator, task, config)
            masks = carry_out(setup.source.plan, model, batches, criterion, repair=between)
        masks = masks.shuffled(config.seed) if config.shuffle_masks else masks
        seconds = time.perf_counter() - started
    else:
        masks = setup.source.beside(model)
        seconds = masks.provenance.seconds or 0.0
    network = model
    if config.reinit:
        reinitialise(network := copy.deepcopy(model), task, config)
    if config.recalibrate != "none":
        network = copy.deepcopy(network)
        recalibrate(network, images_to_repair_by(task), masks, config.recalibrate, scope=task.scope)
    return Pruned(subject.key, model, network, masks, task.scope, seconds)


def digests_of(setup: Setup, judged: Sequence[Tensor]) -> dict[str, Any]:
    """What decides the rows of all subjects beside their settings: the start's weights, and the images."""
    # The rest of the network is drawn from the seed.
    encoder = [] if setup.config.weights == "none" else getattr(setup.model, setup.task.scope).state_dict().values()
    train = setup.task.train.data
    # Which of them prune depends on method and seed.
    pruning = (torch.from_numpy(train[index].image) for index in spread(len(train), TRAIN_IMAGES))
    return {
        "images": sum(map(len, judged)),
        "weights_digest": digest(encoder),
        "images_digest": digest(judged),
        "train_images": len(train),
        "train_digest": digest(pruning),
    }


def files_of(subjects: Sequence[Subject]) -> dict[str, str]:
    """A digest of the file that decides the rows of some subjects alone, by what they are called.

    It is the user's criteria file for each of its methods, and the masks of a finished run.
    """
    found = {}
    for subject in subjects:
        if subject.run is not None and subject.config.masks is not None:
            name = f"{subject.method} at {subject.config.sparsity:g} with seed {subject.config.seed}"
            found[name] = sha256_of(Path(subject.config.masks))
        elif subject.config.criteria:
            found[subject.method] = digest([user_path(subject.config.criteria, "--criteria").read_bytes()])
    return found


def _never(*_: object) -> NoReturn:
    raise AssertionError("nothing is trained")
