"""How the benchmarks' scripts read their flags."""

import sys
from dataclasses import fields
from typing import TypeVar

from jsonargparse import ArgumentParser, Namespace

from px_seg.errors import InputError, one_line

T = TypeVar("T")


def read_flags(parser: ArgumentParser) -> Namespace:
    """What the command line asks for. Raises InputError, in one line, for what cannot be read."""
    try:
        return parser.parse_args(sys.argv[1:])
    except Exception as error:
        raise InputError(one_line(error)) from None


def chosen(kind: type[T], asked: Namespace) -> T:
    """A dataclass from the flags of its fields; those that are no flags keep their defaults."""
    return kind(**{field.name: asked[field.name] for field in fields(kind) if field.name in asked})  # type: ignore[arg-type]
