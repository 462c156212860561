"""What the command lines of this room have in common."""

import argparse
from typing import NoReturn

import torch

from px_seg.errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without its usage."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def from_one_on(text: str) -> int:
    """A whole number, 1 or more, of a flag."""
    return _whole(text, 1)


def from_three_on(text: str) -> int:
    """A whole number, 3 or more, of a flag: a median and quartiles take three."""
    return _whole(text, 3)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise argparse.ArgumentTypeError(f"takes a whole number from {least} on, got {text[:20]!r}")
    return int(text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --threads."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where (a GPU, if there is one)")
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads."""
    parser.add_argument("--threads", type=from_one_on, help="CPU threads (torch's default)")


def set_threads(asked: argparse.Namespace) -> None:
    """As many threads as were asked for, if any number was."""
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)


def device_asked_for(asked: argparse.Namespace) -> str:
    """cpu or cuda, the number of threads set. Raises InputError for a GPU that is not there."""
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that torch sees: give --device cpu")
    set_threads(asked)
    return asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
