"""Packages that only some users need."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from px_seg.errors import InputError


def check_extra(package: str, name: str) -> None:
    """Raise InputError, with the command that brings the extra of that name, where its package is not installed.

    The package is not imported.
    """
    if find_spec(package) is None:
        raise InputError(f"{package} is not installed: pip install 'px_seg[{name}]' brings it")


def extra(package: str, name: str) -> ModuleType:
    """The package, which the extra of that name brings. Raises what `check_extra` does."""
    check_extra(package, name)
    return importlib.import_module(package)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Within it the environment has this variable, for packages that are told nothing in another way."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
