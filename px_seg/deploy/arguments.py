"""What the command lines of this room have in common."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from px_seg.errors import InputError
from px_seg.files import user_path, write_text


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


def output_file(asked: argparse.Namespace) -> Path | None:
    """The file that --output names, if one was. InputError where it cannot be written."""
    if not asked.output:
        return None
    output = user_path(asked.output, "--output")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError(f"--output {output} cannot be written: it is a folder, or its folder is missing or closed")
    return output


def write_output(output: Path, held: Mapping[str, Any]) -> None:
    """Write a JSON file. InputError where it cannot be written."""
    try:
        write_text(output, json.dumps(held, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror or error}") from None
