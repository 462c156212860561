"""Criteria, and rules for PX, from a user's own Python file."""

import importlib.util
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from px_seg.errors import InputError, one_line
from px_seg.identity import digest
from px_seg.pruning import CRITERIA
from px_seg.pruning.rules import GATES, RULES

_PREFIX = "px_seg_criteria_"

BUILT_IN = frozenset(CRITERIA)
"""The criteria that are there before any file is read. A user's file decides nothing about them, unless it teaches PX
an operation."""

_RULES = dict(RULES), dict(GATES)
"""What PX can do before any file is read."""


def rules_were_taught() -> bool:
    """Whether PX has been taught an operation, so that the same network may get other scores."""
    return _RULES != (RULES, GATES)


def load_criteria(path: Path) -> None:
    """Run a Python file that registers criteria (`px_seg.register`) or teaches PX operations (`px_seg.pruning.rules`).

    Once, however often it is asked for.

    Raises InputError when it is not there, or naming the line at which it fails.
    """
    path = path.expanduser().resolve()
    name = f"{_PREFIX}{path.stem}_{abs(hash(path))}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise InputError(f"there is no criteria file {path}: --criteria takes a Python file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file: --criteria takes one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    tables: tuple[MutableMapping[Any, Any], ...] = (CRITERIA, RULES, GATES)
    before = [dict(table) for table in tables]
    # Under its name before it runs: dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for table, former in zip(tables, before, strict=True):
            table.clear()
            table.update(former)
        message = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}{line_of(error, path)} cannot be run: {message}") from error


def own_file(criterion: object) -> Path | None:
    """The user's file that a criterion came from; None for one of px_seg's."""
    module = sys.modules.get(type(criterion).__module__)
    from_file = type(criterion).__module__.startswith(_PREFIX) and module is not None and module.__file__
    return Path(from_file) if from_file else None


@contextmanager
def naming_file(criterion: object, method: str) -> Iterator[None]:
    """What fails in a criterion of the user's own becomes an InputError that names file and line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if (file := own_file(criterion)) is None:
            raise
        message = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"{file}{line_of(error, file)}: {method} cannot score: {message}") from error


@contextmanager
def unchanged(model: nn.Module, criterion: object, method: str) -> Iterator[None]:
    """Within the context a criterion of the user's own must leave the model as it was: InputError, by what it changed.

    Its tensors, what is trained, modes and hooks are compared; px_seg's own criteria are not, which have tests for it.
    """
    file = own_file(criterion)
    before = None if file is None else _state(model)
    yield
    if before is not None:
        after = _state(model)
        if changed := next((what for what in before if before[what] != after[what]), None):
            raise InputError(f"{file}: {method} changes the model's {changed}: a criterion leaves the model as it was")


def _state(model: nn.Module) -> dict[str, object]:
    """What is compared, by how it is called."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "parameters or buffers": [(name, digest([value])) for name, value in tensors],
        "requires_grad": [value.requires_grad for _, value in tensors],
        "gradients": [value.grad is None for _, value in tensors],
        "modes": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, kind)) for module in model.modules() for kind in hooks],
    }


def line_of(error: BaseException, path: Path) -> str:
    """Where in the file it happened, as ":7"; empty if it did not."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}" if error.lineno else ""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
