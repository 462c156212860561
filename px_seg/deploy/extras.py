"""Packages that only some users need."""

import importlib
from types import ModuleType

from px_seg.errors import InputError


def extra(package: str, name: str) -> ModuleType:
    """The package, which the extra of that name brings. InputError, with the command, where it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(f"{package} is not installed: pip install 'px_seg[{name}]' brings it") from None
