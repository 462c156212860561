"""Methods compared on the network that a run would start from, without training anything."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

from px_seg.analysis.cka import FEWEST
from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.rows import Row, compared
from px_seg.config import RunConfig, flat
from px_seg.data.loaders import pruning_batches
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.flags import SPARSITIES, Parser, list_of, sparsities
from px_seg.identity import digest
from px_seg.pruning import CRITERIA, Criterion, Masks, TrainingCriterion, carry_out
from px_seg.repair import recalibrate
from px_seg.run.folder import OPERATIONAL
from px_seg.run.repairing import check_layers, images_to_repair_by, repair_between_rounds
from px_seg.run.setup import Pruning, Setup, check_settings, set_up
from px_seg.run.sparsify import Batches, equip, try_out
from px_seg.run.user_criteria import naming_file
from px_seg.sweep.methods import DENSE, Method
from px_seg.sweep.plan import Cell, Request, base_config, plan_sweep
from px_seg.tasks import TASKS, Task, task_of
from px_seg.tasks.base import evenly_cropped, spread

OF_TRAINING = ("epochs", "evaluate_first", "freeze_bn", "sync_bn", "batch_size", "channels_last")
"""Settings of a run that say how it trains."""

IMAGES = 128
"""How many validation images networks are compared on, unless told otherwise."""

TRAIN_IMAGES = 64
"""How many training images are looked at, evenly spread, to see whether rows are of the same ones."""


def compare_methods(request: Request, images: int | None = None, say: Callable[[str], Any] = print) -> list[Row]:
    """How well is each network that the request prunes the dense one, before any training?

    The request is a sweep's: methods by sparsities by seeds, and flags of the runs, whose start, data and pruning
    batches are used; `images` validation images judge, by default 128, or all where there are fewer. Nothing is
    trained, and no run's folder is written. In `request.output_dir`: a CSV row a network as soon as it is known, a
    table and a figure. The same request goes on where it was stopped.

    Raises InputError, before anything is pruned, for what cannot be compared.
    """
    if images is not None and images < FEWEST:
        raise InputError(f"--images must be at least {FEWEST}, got {images}")
    cells, task_type = _cells(request), task_of(request.task)
    hardest = [
        max((cell.config for cell in cells if cell.method == method), key=lambda config: config.sparsity)
        for method in dict.fromkeys(cell.method for cell in cells)
    ]
    # The plans of all, before an image is read.
    for config in reversed(hardest):
        first = set_up(task_type, config)
    if first.accelerator.num_processes > 1:
        raise InputError("a comparison is carried out by one process: start it without accelerate launch")
    there = len(first.task.val_cropped)
    images = min(there, IMAGES) if images is None else images
    if there < max(images, FEWEST):
        raise InputError(f"there are {there} validation images, fewer than the {max(images, FEWEST)} to compare on")
    judged = evenly_cropped(first.task, images, first.config.batch_size)
    folder = ComparisonFolder(
        request.output_dir, _settings(base_config(request, ()), first, judged), _criteria_files(cells)
    )
    first.task.check_data()
    for config in hardest:
        # Two images are scored: what cannot be done shows before time is spent.
        _prepared(task_type, config)
    wanted = {
        (cell.method, cell.config.sparsity, cell.config.seed): partial(_compared, task_type, cell, judged)
        for cell in cells
    }
    shown = f"{first.config.encoder}, {first.config.data.name}"
    title = f"Pruned networks beside the dense one, before training: {shown}"
    return folder.complete(wanted, images, title, say)


def read_request(argv: Sequence[str], about: str) -> tuple[Request, int | None]:
    """What a command line asks to compare, and on how many images. All other flags are the runs'.

    Raises InputError for a flag that cannot be read.
    """
    usage = "px_seg preservation --weights W --methods A,B --sparsities X,Y --output_dir DIR [--KEY VALUE ...]"
    parser = Parser(usage, about)
    add = parser.add_argument
    add("--task", default="seg", choices=TASKS, help="by default seg")
    add(
        "--methods",
        type=list_of(str),
        required=True,
        metavar="A,B",
        help="criteria by name, also with settings: px+rounds=10",
    )
    add("--sparsities", type=sparsities, metavar="X,Y", help=SPARSITIES)
    add("--seeds", type=list_of(int), default=(0,), metavar="I,J", help="seeds of head and data order; by default 0")
    judged = f"validation images to judge on; by default {IMAGES}, or all there are"
    add("--images", type=int, metavar="N", help=judged)
    add("--output_dir", required=True, metavar="DIR", help="folder for rows, table and figure")
    asked, flags = parser.parse_known_args(argv)
    if flags and not flags[0].startswith("--"):
        raise InputError(f"{flags[0]!r} belongs to no flag")
    request = Request(
        task=asked.task,
        methods=asked.methods,
        sparsities=asked.sparsities or (),
        seeds=asked.seeds,
        output_dir=user_path(asked.output_dir, "--output_dir"),
        flags=tuple(flags),
    )
    return request, asked.images


def _cells(request: Request) -> list[Cell]:
    """The networks to compare, by method, sparsity and seed."""
    if request.vary:
        raise InputError("a comparison varies methods, sparsities and seeds alone: leave --vary out")
    if DENSE in request.methods:
        raise InputError("every network is compared with the dense one: leave dense out")
    if 0 in request.sparsities:
        raise InputError("a sparsity of 0 is the dense network, which all are compared with: leave it out")
    cells = plan_sweep(request)
    methods = [Method.of(text) for text in request.methods]
    for method in methods:
        if issubclass(CRITERIA[method.criterion], TrainingCriterion):
            raise InputError(f"{method.name} trains to find its masks, and a comparison trains nothing: leave it out")
    if cells[0].config.reinit:
        raise InputError("new weights after pruning have nothing of the dense network: leave --reinit out")
    for cell in cells:
        check_settings(cell.config)
    order = [method.name for method in methods]
    return sorted(cells, key=lambda cell: (order.index(cell.method), cell.config.sparsity))


def _settings(config: RunConfig, first: Setup, judged: Sequence[Tensor]) -> dict[str, Any]:
    """What decides the rows, less methods, sparsities and seeds. Where the data lies does not, nor how one trains."""
    decided = {
        key: value
        for key, value in flat(asdict(config)).items()
        if key not in (*OPERATIONAL, *OF_TRAINING, "criteria") and not key.startswith(("optimizer.", "schedule."))
    }
    # The rest of the network is drawn from the seed.
    encoder = [] if config.weights == "none" else getattr(first.model, first.task.scope).state_dict().values()
    train = first.task.train.data
    # Which of them prune depends on method and seed.
    pruning = (torch.from_numpy(train[index].image) for index in spread(len(train), TRAIN_IMAGES))
    return decided | {
        "images": sum(map(len, judged)),
        "weights_digest": digest(encoder),
        "images_digest": digest(judged),
        "train_images": len(train),
        "train_digest": digest(pruning),
    }


def _criteria_files(cells: Sequence[Cell]) -> dict[str, str]:
    """A digest of the user's criteria file for each of its methods."""
    return {
        cell.method: digest([user_path(cell.config.criteria, "--criteria").read_bytes()])
        for cell in cells
        if cell.config.criteria
    }


class _Prepared(NamedTuple):
    setup: Setup
    criterion: Criterion
    batches: Batches


def _prepared(task_type: type[Task], config: RunConfig) -> _Prepared:
    """The network of a run and what prunes it, seen to work on two images."""
    setup = set_up(task_type, config)
    assert isinstance(setup.source, Pruning)
    setup.model.to(setup.accelerator.device)
    setup.task.fit_head(setup.model, setup.accelerator)
    criterion = equip(setup.source.criterion, setup.task, _never)
    batches = pruning_batches(setup.task.train, setup.source.drawn)
    try_out(setup.model, setup.source.plan, batches, criterion, config.method)
    check_layers(setup.model, setup.task, setup.source.plan.start, config)
    return _Prepared(setup, criterion, batches)


def _compared(task_type: type[Task], cell: Cell, judged: Sequence[Tensor]) -> Row:
    config = cell.config
    setup, criterion, batches = _prepared(task_type, config)
    plan = cast(Pruning, setup.source).plan

    def prune() -> Masks:
        with naming_file(criterion, config.method):
            between = repair_between_rounds(setup.accelerator, setup.task, config)
            masks = carry_out(plan, setup.model, batches, criterion, repair=between)
        return masks.shuffled(config.seed) if config.shuffle_masks else masks

    def repaired(masks: Masks) -> nn.Module:
        network = copy.deepcopy(setup.model)
        recalibrate(network, images_to_repair_by(setup.task), masks, config.recalibrate, scope=setup.task.scope)
        return network

    repair = None if config.recalibrate == "none" else repaired
    return compared(setup.model, cell.method, config.sparsity, config.seed, prune, judged, repair=repair)


def _never(*_: object) -> NoReturn:
    raise AssertionError("nothing is trained")
