"""How flags that take several values, and those of runs among a command's own, are read."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from px_seg.command_help import is_switch, keys_of, width
from px_seg.errors import InputError
from px_seg.tasks import TASKS

T = TypeVar("T")

PAPER = tuple(round(1 - 0.64**k, 4) for k in range(1, 10))
"""The paper's sparsities: 36.00, 59.04, 73.79, 83.22, 89.26, 93.13, 95.60, 97.19 and 98.20%."""

METHODS = "criteria by name, some with settings of their own: px,px+ranking=erk+rounds=10"
"""What help says of the methods to compare."""

SPARSITIES = "shares of the backbone to prune, or paper: 1 - 0.64^k, k = 1..9"
"""What help says of `sparsities`."""


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and exit; the flags of the runs are not its own."""

    def __init__(self, usage: str, description: str) -> None:
        super().__init__(
            usage=usage,
            description=description,
            epilog="All other flags are those of a run: `px_seg seg --help` and `px_seg cls --help` list them.",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=30, width=width()
            ),
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


REPEATED = ("--config", "--vary", "--slurm")
"""Flags that may stand several times."""


def check_once(words: Sequence[str]) -> None:
    """Raise InputError for a flag that is given twice, of which parsers take the last and say nothing."""
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    if twice := next((flag for flag in flags if flags.count(flag) > 1 and flag not in REPEATED), None):
        raise InputError(f"{twice} is given twice: keep one")


def parts(text: str) -> list[str]:
    """The values of a list separated by commas. One within brackets belongs to a list that is itself a value."""
    return [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text) if part.strip()]


def list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Reads values separated by commas, one at least."""

    def read(text: str) -> tuple[T, ...]:
        try:
            if found := tuple(kind(part) for part in parts(text)):
                return found
            raise ValueError("none")
        except ValueError:
            words: dict[object, str] = {int: "whole numbers", float: "numbers"}
            kinds = words.get(kind, "names")
            raise argparse.ArgumentTypeError(f"takes {kinds} separated by commas, got {text!r}") from None

    return read


def sparsities(text: str) -> tuple[float, ...]:
    """Reads shares separated by commas, or `paper` for the paper's."""
    return PAPER if text == "paper" else list_of(float)(text)


def run_flags(argv: Sequence[str], groups: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command apart from the flags that are settings of a run, in the groups of keys of these names.

    The value of such a flag follows it, after = or as the next word; a yes or no may stand alone.
    """
    switches = {key for task in TASKS.values() for key, kind in keys_of(task.config_type).items() if is_switch(kind)}
    words, flags = [], []
    left = list(argv)
    while left:
        word = left.pop(0)
        key, given, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key.partition(".")[0] not in groups or "." not in key:
            words.append(word)
            continue
        flags.append(word)
        if not given and left and (left[0] in ("true", "false") if key in switches else not left[0].startswith("--")):
            flags.append(left.pop(0))
    return words, flags
