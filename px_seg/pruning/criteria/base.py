"""What a criterion is, and the names that criteria go by."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches
from px_seg.pruning.scope import Scope
from px_seg.pruning.sharing import Group


@dataclass(frozen=True)
class Criterion(ABC):
    """Scores weights; the higher score stays.

    `seed` is the source of all that a criterion draws at random; most draw nothing. Fields that a
    subclass declares with `repr=False` are what it works with, a loss for one, and no settings.
    """

    seed: int = 0

    rounds: ClassVar[int] = 1
    """In how many rounds of scoring and pruning the criterion is used unless told otherwise."""

    ranking: ClassVar[str] = "global"
    """How weights of different layers compete unless told otherwise: a name in `px_seg.pruning.RANKINGS`."""

    needs_data: ClassVar[bool] = False
    """Whether `score` reads the batches."""

    @abstractmethod
    def score(
        self,
        model: nn.Module,
        batches: Batches = (),
        masks: Mapping[str, Tensor] | None = None,
        scope: Scope = None,
        group: Group = None,
    ) -> dict[str, Tensor]:
        """One score per weight in `scope`, by parameter name, each of its parameter's shape.

        `masks` are those in force; weights they do not cover are live. `batches` are those of
        this process, and the score is over those of all processes in the torch.distributed
        `group`, None for this process alone. The model comes back as it was.
        """

    def rounds_to(self, sparsity: float) -> int:
        """The rounds in which the criterion reaches a sparsity unless told otherwise."""
        return self.rounds

    def settings(self) -> dict[str, Any]:
        """The fields that decide the score, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.repr}


C = TypeVar("C", bound=type[Criterion])

CRITERIA: dict[str, type[Criterion]] = {}
"""Criteria by the names that --method takes; `register` adds to it."""


def register(name: str) -> Callable[[C], C]:
    """A class decorator that makes a subclass of Criterion known as `name`.

    Raises InputError for a name that is taken and for what is no such class.
    """

    def add(kind: C) -> C:
        if not (isinstance(kind, type) and issubclass(kind, Criterion)):
            raise InputError(f"the criterion {name!r} must be a class derived from px_seg.Criterion, got {kind!r}")
        if name in CRITERIA:
            raise InputError(f"there is a criterion {name!r} already: register yours under another name")
        CRITERIA[name] = kind
        return kind

    return add


def criterion(name: str, **settings: Any) -> Criterion:
    """The criterion of that name; `settings` go to its constructor. InputError if either is unknown."""
    if name not in CRITERIA:
        raise InputError(f"there is no method {name!r}: choose one of {', '.join(CRITERIA)}")
    known = [field.name for field in fields(CRITERIA[name]) if field.repr]
    for setting in settings:
        if setting not in known:
            raise InputError(f"the method {name} has no setting {setting}; it has {', '.join(known)}")
    return CRITERIA[name](**settings)


def check_positive(criterion: Criterion, name: str, whole: bool = False) -> None:
    """Raise InputError unless the setting of this name is a number above 0, and a `whole` one where it must be."""
    value = getattr(criterion, name)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        number = "whole number" if whole else "number"
        raise InputError(f"{type(criterion).__name__}: {name} must be a {number} above 0, got {value!r}")
