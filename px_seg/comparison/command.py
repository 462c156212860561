"""Methods compared on the network that a run would start from, without training anything."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import yaml

from px_seg.command_help import width
from px_seg.comparison.figure import draw
from px_seg.comparison.rows import Row, compared, read_rows, table, write_rows
from px_seg.config import RunConfig, flat
from px_seg.data.loaders import pruning_batches
from px_seg.errors import InputError
from px_seg.files import user_path, write_text
from px_seg.pruning import CRITERIA, Masks, NoPathLeft, NothingToRank, TrainingCriterion, carry_out
from px_seg.run.folder import OPERATIONAL
from px_seg.run.setup import Pruning, Setup, check_settings, set_up
from px_seg.run.sparsify import equip, try_out
from px_seg.sweep.command_line import Parser, list_of, sparsities
from px_seg.sweep.plan import DENSE, Cell, Request, base_config, plan_sweep
from px_seg.tasks import TASKS, task_of
from px_seg.tasks.base import evenly_cropped

IMAGES = 128
"""How many validation images networks are compared on, unless told otherwise."""

ROWS, TABLE, FIGURE, SETTINGS = "preservation.csv", "preservation.md", "preservation", "settings.yaml"
"""What a comparison writes."""


def compare_methods(request: Request, images: int, say: Callable[[str], Any] = print) -> list[Row]:
    """How well is each network that the request prunes the dense one, before any training?

    The request is a sweep's: methods by sparsities by seeds, and flags of the runs, whose start, data and pruning
    batches are used; `images` validation images judge. Nothing is trained, and no run's folder is written. In
    `request.output_dir`: a CSV row a network as soon as it is known, a table and a figure. The same request goes on
    where it was stopped. Raises InputError, before anything is pruned, for what cannot be compared.
    """
    if images < 2:
        raise InputError(f"--images must be at least 2, got {images}")
    folder, cells = request.output_dir, _cells(request)
    settings = _settings(base_config(request, ()), images)
    _check_folder(folder, settings)
    rows, failures, opened = read_rows(folder / ROWS), [], False
    for number, cell in enumerate(cells, 1):
        if (cell.config.method, cell.config.sparsity, cell.config.seed) in {row[:3] for row in rows}:
            continue
        setup = set_up(task_of(request.task), cell.config)
        if not opened:
            setup.task.check_data()
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / SETTINGS, settings)
            opened = True
        try:
            rows.append(_compared(setup, images))
        except (NoPathLeft, NothingToRank) as error:
            failures.append(f"{cell.name}: {error}")
            say(f"not compared: {failures[-1]}")
            continue
        write_rows(folder / ROWS, rows)
        say(f"{number} of {len(cells)}: {_said(rows[-1])}")
    order = {(c.config.method, c.config.sparsity, c.config.seed): place for place, c in enumerate(cells)}
    rows = sorted((row for row in rows if row[:3] in order), key=lambda row: order[row[:3]])
    if not rows:
        raise InputError(f"no network could be compared; the first: {failures[0]}")
    config = cells[0].config
    title = f"Pruned networks beside the dense one, before training: {config.encoder}, {config.data.name}"
    text = table(rows, images)
    write_text(folder / TABLE, text + "\n")
    draw(folder, FIGURE, rows, title)
    say(f"{text}\nwritten to {folder}")
    if failures:
        raise InputError(f"{len(failures)} of {len(cells)} networks could not be compared; the first: {failures[0]}")
    return rows


def read_request(argv: Sequence[str], about: str) -> tuple[Request, int]:
    """What a command line asks to compare, and on how many images. All other flags are the runs'.

    Raises InputError for a flag that cannot be read.
    """
    parser = Parser(
        usage="px_seg preservation --weights W --methods A,B --sparsities X,Y --output_dir DIR [--KEY VALUE ...]",
        description=about,
        epilog="All other flags are those of a run: `px_seg seg --help` and `px_seg cls --help` list them.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width()),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--task", default="seg", choices=TASKS, help="by default seg")
    add("--methods", type=list_of(str), required=True, metavar="A,B", help="criteria by name")
    shares = "shares of the backbone to prune, or paper: 1 - 0.64^k, k = 1..9"
    add("--sparsities", type=sparsities, required=True, metavar="X,Y", help=shares)
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


def _settings(config: RunConfig, images: int) -> str:
    """What decides the rows, less methods, sparsities and seeds: where the data lies does not."""
    kept = {key: value for key, value in flat(asdict(config)).items() if key not in OPERATIONAL}
    return yaml.safe_dump({**kept, "images": images}, sort_keys=False)


def _check_folder(folder: Path, settings: str) -> None:
    """InputError where the folder holds a comparison with other settings, or something else."""
    path = folder / SETTINGS
    if path.is_file():
        if path.read_text(encoding="utf-8") != settings:
            raise InputError(f"{folder} holds a comparison with other settings: give another --output_dir")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something else: give an --output_dir that is empty, or does not exist")


def _compared(setup: Setup, images: int) -> Row:
    config, task, source, model = setup.config, setup.task, setup.source, setup.model
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


def _said(row: Row) -> str:
    last = list(row.cka)[-1]
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}: CKA of {last} {row.cka[last]:.3f}, "
        f"equal predictions {row.agreement:.1%}, error {row.error:.3f}"
    )
