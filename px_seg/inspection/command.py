"""The command `check`: a dataset read whole, and all that is wrong with it said at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import join

from px_seg.command_line import parse
from px_seg.config import RunConfig
from px_seg.errors import InputError
from px_seg.files import make_folder, user_path, write_text
from px_seg.flags import Parser, run_flags
from px_seg.inspection.findings import Findings, inspect
from px_seg.inspection.recognition import recognised
from px_seg.inspection.tables import SHOWN, as_csv, by_class, overview
from px_seg.tasks import TASKS, Task, presets, task_of
from px_seg.tasks.base import TRAINING
from px_seg.text import columns

CHECK = """Read every image and mask of a dataset, and say at once all that is wrong with it, file by file.

    px_seg check FOLDER
    px_seg check --data.name folders --data.images photos --data.masks labels --data.classes classes.txt
    px_seg check --task cls --data.name folder --data.root FOLDER

How many images and pixels each class has, the images' sizes, which of them are there twice, and a picture of nine
samples. A FOLDER is known by what lies in it: JPEGImages or VOCdevkit; images and masks; or train and val with a folder
a class. Runs know from the record what was found good, and do not read it again. The exit status is 1 where a run would
refuse the data."""

LISTED = 20
"""Faults that are printed; the file has all."""


def check(argv: Sequence[str]) -> bool:
    """Check what the words name, print what is found and write it into a folder; whether nothing is wrong.

    Raises InputError for what cannot be read at all.
    """
    words, flags = run_flags(argv, ("data",))
    asked = _read(words)
    task, flags = _data_asked_for(asked, flags)
    files = [word for file in asked.config or () for word in ("--config", file)]
    config = parse(task.config_type, [*files, *flags], presets(task))
    folder = _folder(asked, config)
    parts = task.parts(config)
    make_folder(folder, "--output_dir")
    findings = inspect(task, config, parts)
    faults = _written(folder, findings, config.data.name)
    print(_report(findings, folder, faults))
    if not findings.faults:
        words = [*files, *flags, *_fitting(config, len(findings.parts[TRAINING].survey.stored))]
        print(f"nothing is wrong: train with px_seg {task.name} {join(words)}".rstrip())
    return not findings.faults


def _fitting(config: RunConfig, images: int) -> list[str]:
    """The flags that a run needs on so few images, if it needs any."""
    asked, fitting = config.pruning, []
    if config.batch_size > images:
        fitting += ["--batch_size", str(images)]
    if asked.per_class is None and asked.batches * asked.batch_size > images:
        fitting += ["--pruning.batches", "1", "--pruning.batch_size", str(min(asked.batch_size, images))]
    return fitting


def _data_asked_for(asked: argparse.Namespace, flags: Sequence[str]) -> tuple[type[Task], list[str]]:
    """The task, and the flags that name its data."""
    if asked.folder is None:
        if not flags and not asked.config:
            raise InputError("which dataset is to be checked? Give its folder, or --data.name and where it lies")
        return task_of(asked.task or "seg"), list(flags)
    if wrong := {flag.partition("=")[0] for flag in flags} & {"--data.name", "--data.root"}:
        raise InputError(f"{asked.folder} is a dataset by itself: leave it out, or {' and '.join(sorted(wrong))}")
    found = recognised(user_path(asked.folder, "the folder"))
    if asked.task not in (None, found.task.name):
        raise InputError(f"{asked.folder} is a dataset for px_seg {found.task.name}: leave --task {asked.task} out")
    given = {flag.partition("=")[0] for flag in flags if flag.startswith("--")}
    pairs = zip(found.flags[::2], found.flags[1::2], strict=True)
    return found.task, [*(word for pair in pairs if pair[0] not in given for word in pair), *flags]


def _folder(asked: argparse.Namespace, config: RunConfig) -> Path:
    if asked.output_dir is not None:
        return user_path(asked.output_dir, "--output_dir")
    return Path("runs", "check", config.data.name if asked.folder is None else Path(asked.folder).resolve().name)


def _written(folder: Path, findings: Findings, title: str) -> Path:
    """Write table, picture and faults, in place of what an earlier check found; the file of the faults."""
    from px_seg.inspection.picture import draw

    faults, picture = folder / "faults.txt", folder / "samples.png"
    for old in (faults, picture):
        old.unlink(missing_ok=True)
    write_text(folder / "classes.csv", as_csv(findings))
    if findings.faults:
        write_text(faults, "\n".join(findings.faults) + "\n")
    draw(picture, findings, title)
    return faults


def _report(findings: Findings, folder: Path, faults: Path) -> str:
    classes = by_class(findings)
    lines = [columns(overview(findings)), "", columns(classes[: SHOWN + 1])]
    if len(classes) > SHOWN + 1:
        lines.append(f"and {len(classes) - SHOWN - 1} more classes, in {folder / 'classes.csv'}")
    lines += ["", *(f"note: {note}" for note in findings.notes)]
    lines += [f"wrong: {fault}" for fault in findings.faults[:LISTED]]
    if len(findings.faults) > LISTED:
        lines.append(f"and {len(findings.faults) - LISTED} more faults, in {faults}")
    return "\n".join([*lines, f"samples and classes: {folder}"])


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg check [FOLDER] [--data.KEY VALUE ...]", CHECK)
    parser.epilog = "The flags --data.KEY are those of a run: `px_seg seg --help` and `px_seg cls --help` list them."
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="folder of a dataset")
    parser.add_argument("--task", choices=TASKS, help="what it is for: seg, the default, or cls")
    parser.add_argument("--config", action="append", metavar="FILE", help="a run's YAML file, which names its data")
    parser.add_argument(
        "--output_dir", metavar="DIR", help="where samples.png, classes.csv and faults.txt go (runs/check/NAME)"
    )
    return parser.parse_args(argv)
