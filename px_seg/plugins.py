"""Criteria from a user's own Python file."""

import importlib.util
import sys
from pathlib import Path

from px_seg.errors import InputError


def load_criteria(path: Path) -> None:
    """Run a Python file that registers criteria (`px_seg.register`); once, however often it is asked for.

    Raises InputError when it is not there, or naming the line at which it fails.
    """
    path = path.expanduser().resolve()
    name = f"px_seg_criteria_{path.stem}_{abs(hash(path))}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise InputError(f"there is no file of criteria {path}: --criteria names a Python file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file: --criteria names one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Under its name before it runs: dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path}{_line(error, path)} cannot be run: {type(error).__name__}: {error}") from error


def _line(error: BaseException, path: Path) -> str:
    """Where in the file it happened, as ":7"."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
