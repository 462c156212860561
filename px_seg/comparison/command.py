"""Networks compared on the start that runs would have, without training anything."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.measures import Measure
from px_seg.comparison.networks import digests_of, files_of, prepared, pruned
from px_seg.comparison.subjects import Subject, alike, of_methods, of_runs, shared, task_named, usual
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.flags import METHODS, SPARSITIES, Parser, list_of, sparsities
from px_seg.run.folder import RunFolder
from px_seg.run.setup import set_up
from px_seg.sweep.plan import ANALYSIS, Request, base_config
from px_seg.tasks import TASKS, Task, task_of
from px_seg.tasks.base import evenly_cropped


class Asked(NamedTuple):
    """What a command line asks to compare: the networks of a request, or of finished runs."""

    request: Request | None
    runs: tuple[Path, ...]
    task: str | None
    """Of the runs, where it is said."""
    output_dir: Path
    images: int | None = None


def compare(measure: Measure[Any], asked: Asked, say: Callable[[str], Any] = print) -> list[Any]:
    """Measure each network that is asked for, before any training; the rows.

    A request is a sweep's: methods by sparsities by seeds, and flags of the runs, whose start, data and pruning
    batches are used. Of finished runs, start and masks are used. Validation images judge, as many as asked for, or the
    measure's usual number, or all where there are fewer. Nothing is trained, and no run's folder is written. In
    `output_dir`: CSV rows as soon as they are known, a table and figures. The same request goes on where it was
    stopped.

    Raises InputError, before anything is pruned, for what cannot be compared.
    """
    if asked.images is not None and asked.images < measure.fewest:
        raise InputError(f"--images must be at least {measure.fewest}, got {asked.images}")
    if asked.request is not None:
        subjects = of_methods(asked.request, measure.with_dense)
        decided = alike(base_config(asked.request, ()))
    else:
        subjects = of_runs(asked.runs, asked.task, asked.output_dir, measure.with_dense)
        decided = {"of": "runs", **shared(subjects[0].config)}
        if not measure.with_dense and (new := [one for one in subjects if one.config.reinit]):
            raise InputError(
                f"the run in {new[0].run} drew new weights, with nothing of the dense network: leave it out"
            )
    task_type = task_of(task_named(subjects[0]))
    hardest = _hardest(subjects)
    # The plans of all, before an image is read.
    for subject in reversed(hardest):
        first = set_up(task_type, subject.config)
    if first.accelerator.num_processes > 1:
        raise InputError("a comparison is carried out by one process: start it without accelerate launch")
    there = len(first.task.val_cropped)
    images = min(there, measure.images) if asked.images is None else asked.images
    if there < max(images, measure.fewest):
        least = max(images, measure.fewest)
        raise InputError(f"there are {there} validation images, fewer than the {least} to compare on")
    judged = evenly_cropped(first.task, images, first.config.batch_size)
    settings = {"rows": measure.kind.name, **decided, **digests_of(first, judged), **measure.settings()}
    folder = ComparisonFolder(measure.kind, asked.output_dir, settings, files_of(subjects), usual(subjects[0].config))
    measure.check(first.model, judged)
    first.task.check_data()
    for subject in hardest:
        # Two images are scored: what cannot be done shows before time is spent.
        prepared(task_type, subject)
    wanted = {subject.key: partial(_measured, measure, task_type, subject, judged) for subject in subjects}
    shown = f"{first.config.encoder}, {first.config.data.name}"
    return folder.complete(wanted, images, f"{measure.title}: {shown}", say)


def _beside(runs: Sequence[str]) -> Path:
    """The sweep whose folder is given, to write to. InputError where none is."""
    folder = user_path(runs[0], "the run") if len(runs) == 1 else None
    if folder is None or RunFolder(folder).results.is_file():
        raise InputError(
            "give --output_dir: only what is found of a sweep, given by its folder, has a place of its own"
        )
    return folder


def _hardest(subjects: Sequence[Subject]) -> list[Subject]:
    """The subject of the highest sparsity of each method."""
    return [
        max((one for one in subjects if one.method == method), key=lambda subject: subject.config.sparsity)
        for method in dict.fromkeys(subject.method for subject in subjects)
    ]


def _measured(measure: Measure[Any], task_type: type[Task], subject: Subject, judged: Sequence[Tensor]) -> Any:
    return measure.of(pruned(task_type, subject), judged)


def read_asked(name: str, argv: Sequence[str], about: str, measure: type[Measure[Any]]) -> tuple[Measure[Any], Asked]:
    """What a command line asks to compare; all flags that are not the command's own are the runs'.

    Folders of finished runs, or of sweeps, come first, in place of methods. Raises InputError for a flag that cannot be
    read.
    """
    usage = (
        f"px_seg {name} --methods A,B --sparsities X,Y --output_dir DIR [--KEY VALUE ...]\n"
        f"       px_seg {name} RUN [RUN ...] --output_dir DIR"
    )
    parser = Parser(usage, about)
    add = parser.add_argument
    add("--task", choices=TASKS, help="by default seg, or that of the runs")
    add("--methods", type=list_of(str), metavar="A,B", help=METHODS)
    add("--sparsities", type=sparsities, metavar="X,Y", help=SPARSITIES)
    add("--seeds", type=list_of(int), metavar="I,J", help="seeds of head and data order; by default 0")
    judged = f"validation images to judge on; by default {measure.images}, or all there are"
    add("--images", type=int, metavar="N", help=judged)
    for flag, (kind, text) in measure.flags.items():
        add(f"--{flag}", type=kind, metavar="N", help=text)
    where = f"folder for rows, table and figures; of a sweep's runs by default SWEEP/{ANALYSIS}/{name}, for its report"
    add("--output_dir", metavar="DIR", help=where)
    first = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    runs, words = argv[:first], argv[first:]
    asked, flags = parser.parse_known_args(words)
    if flags and not flags[0].startswith("--"):
        raise InputError(f"{flags[0]!r} belongs to no flag")
    made = measure(**{flag: getattr(asked, flag) for flag in measure.flags})
    output_dir = user_path(asked.output_dir or _beside(runs) / ANALYSIS / name, "--output_dir")
    if runs:
        said = [f"--{key}" for key in ("methods", "sparsities", "seeds") if getattr(asked, key)]
        if said := [*said, *(word.partition("=")[0] for word in flags if word.startswith("--"))]:
            raise InputError(f"finished runs say by themselves what they are: leave {said[0]} out")
        folders = tuple(user_path(run, "the run") for run in runs)
        return made, Asked(None, folders, asked.task, output_dir, asked.images)
    if not asked.methods:
        raise InputError("nothing to compare: give folders of finished runs first, or --methods")
    request = Request(
        task=asked.task or "seg",
        methods=asked.methods,
        sparsities=asked.sparsities or (),
        seeds=asked.seeds or (0,),
        output_dir=output_dir,
        flags=tuple(flags),
    )
    return made, Asked(request, (), None, output_dir, asked.images)
