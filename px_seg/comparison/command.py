"""Methods compared on the network that a run would start from, without training anything."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.rows import Row, compared
from px_seg.config import RunConfig, flat
from px_seg.data.loaders import pruning_batches
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.flags import SPARSITIES, Parser, list_of, sparsities
from px_seg.pruning import CRITERIA, Masks, TrainingCriterion, carry_out
from px_seg.run.folder import OPERATIONAL
from px_seg.run.setup import Pruning, check_settings, set_up
from px_seg.run.sparsify import equip, try_out
from px_seg.sweep.plan import DENSE, Cell, Request, base_config, plan_sweep
from px_seg.tasks import TASKS, Task, task_of
from px_seg.tasks.base import evenly_cropped

IMAGES = 128
"""How many validation images networks are compared on, unless told otherwise."""


def compare_methods(request: Request, images: int, say: Callable[[str], Any] = print) -> list[Row]:
    """How well is each network that the request prunes the dense one, before any training?

    The request is a sweep's: methods by sparsities by seeds, and flags of the runs, whose start, data and pruning
    batches are used; `images` validation images judge. Nothing is trained, and no run's folder is written. In
    `request.output_dir`: a CSV row a network as soon as it is known, a table and a figure. The same request goes on
    where it was stopped. Raises InputError, before anything is pruned, for what cannot be compared.
    """
    if images < 2:
        raise InputError(f"--images must be at least 2, got {images}")
    cells, task = _cells(request), task_of(request.task)
    folder = ComparisonFolder(request.output_dir, _settings(base_config(request, ()), images))
    first = set_up(task, cells[0].config)
    first.task.check_data()
    wanted = {
        (cell.config.method, cell.config.sparsity, cell.config.seed): partial(_compared, task, cell.config, images)
        for cell in cells
    }
    config = first.config
    title = f"Pruned networks beside the dense one, before training: {config.encoder}, {config.data.name}"
    return folder.complete(wanted, images, title, say)


def read_request(argv: Sequence[str], about: str) -> tuple[Request, int]:
    """What a command line asks to compare, and on how many images. All other flags are the runs'.

    Raises InputError for a flag that cannot be read.
    """
    usage = "px_seg preservation --weights W --methods A,B --sparsities X,Y --output_dir DIR [--KEY VALUE ...]"
    parser = Parser(usage, about)
    add = parser.add_argument
    add("--task", default="seg", choices=TASKS, help="by default seg")
    add("--methods", type=list_of(str), required=True, metavar="A,B", help="criteria by name")
    add("--sparsities", type=sparsities, required=True, metavar="X,Y", help=SPARSITIES)
    add("--seeds", type=list_of(int), default=(0,), metavar="I,J", help="seeds of head and data order; by default 0")
    add("--images", type=int, default=IMAGES, metavar="N", help=f"validation images to judge on; by default {IMAGES}")
    add("--output_dir", required=True, metavar="DIR", help="folder for rows, table and figure")
    asked, flags = parser.parse_known_args(argv)
    if flags and not flags[0].startswith("--"):
        raise InputError(f"{flags[0]!r} belongs to no flag")
    request = Request(
        task=asked.task,
        methods=asked.methods,
        sparsities=asked.sparsities,
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
    cells = plan_sweep(request)
    for method in request.methods:
        if issubclass(CRITERIA[method], TrainingCriterion):
            raise InputError(f"{method} trains to find its masks, and a comparison trains nothing: leave it out")
    for cell in cells:
        check_settings(cell.config)
    return sorted(cells, key=lambda cell: (request.methods.index(cell.config.method), cell.config.sparsity))


def _settings(config: RunConfig, images: int) -> dict[str, Any]:
    """What decides the rows, less methods, sparsities and seeds: where the data lies does not."""
    return {key: value for key, value in flat(asdict(config)).items() if key not in OPERATIONAL} | {"images": images}


def _compared(task_type: type[Task], config: RunConfig, images: int) -> Row:
    setup = set_up(task_type, config)
    task, source, model = setup.task, setup.source, setup.model
    assert isinstance(source, Pruning)
    if setup.accelerator.num_processes > 1:
        raise InputError("a comparison is carried out by one process: start it without accelerate launch")
    model.to(setup.accelerator.device)
    task.fit_head(model, setup.accelerator)
    criterion = equip(source.criterion, task, _never)
    batches = pruning_batches(task.train, source.drawn)
    try_out(model, source.plan, batches, criterion, config.method)

    def prune() -> Masks:
        return carry_out(source.plan, model, batches, criterion)

    judged = evenly_cropped(task, images, config.batch_size)
    return compared(model, config.method, config.sparsity, config.seed, prune, judged)


def _never(*_: object) -> NoReturn:
    raise AssertionError("nothing is trained")
