"""What a criterion is, and the names that criteria go by."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, TypeVar

from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.pruning.batches import Batches
from px_seg.pruning.distributed import Group
from px_seg.pruning.scope import Scope

InForce: TypeAlias = Mapping[str, Tensor] | None
"""The masks that a criterion scores under, by parameter name."""

Scores: TypeAlias = dict[str, Tensor]
"""What a criterion returns: a score for every weight, by parameter name."""


@dataclass(frozen=True, kw_only=True)
class Criterion(ABC):
    """Scores weights; the higher score stays.

    `seed` is the source of all that a criterion draws at random; most draw nothing. Fields that a
    subclass declares with `repr=False` are what it works with, such as a loss, and not settings.
    """

    seed: int = 0

    rounds: ClassVar[int] = 1
    """In how many rounds of scoring and pruning the criterion is used unless told otherwise."""

    ranking: ClassVar[str] = "global"
    """How weights of different layers compete unless told otherwise: a name in `px_seg.pruning.RANKINGS`."""

    needs_data: ClassVar[bool] = False
    """Whether `score` reads the batches; one that does not is given none."""

    walks_paths: ClassVar[bool] = False
    """Whether it scores by the paths of the whole network, decoder and head included."""

    @property
    def by_paths(self) -> bool:
        """Whether weights that lie on no path from images to outputs score 0, and make no difference to other scores.

        Such a criterion may be given a smaller network that has the same paths.
        """
        return False

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"{type(self).__name__}: seed must be a whole number, got {self.seed!r}")

    @abstractmethod
    def score(
        self, model: nn.Module, batches: Batches = (), masks: InForce = None, scope: Scope = None, group: Group = None
    ) -> Scores:
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

    Raises InputError for a name that is taken or could not be a folder's, and for anything but such a class.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(
            f'register a criterion with @register("name"), a name of letters, digits, _, ., + and -: got {name!r}'
        )

    def add(kind: C) -> C:
        if not (isinstance(kind, type) and issubclass(kind, Criterion)):
            raise InputError(f"the criterion {name!r} must be a class derived from px_seg.Criterion, got {kind!r}")
        if missing := ", ".join(sorted(kind.__abstractmethods__)):
            raise InputError(f"the criterion {name!r} must define {missing}")
        if name in CRITERIA:
            raise InputError(f"there is a criterion {name!r} already: register yours under another name")
        CRITERIA[name] = kind
        return kind

    return add


def criterion(name: str, /, **settings: Any) -> Criterion:
    """The criterion of that name; `settings` go to its constructor.

    Raises InputError for a name or a setting that is unknown, and for a value of another type than the default's.
    """
    if name not in CRITERIA:
        raise InputError(f"there is no method {name!r}: choose one of {', '.join(CRITERIA)}")
    known = {field.name: field.default for field in fields(CRITERIA[name]) if field.repr}
    for setting, value in settings.items():
        if setting not in known:
            own = ", ".join(other for other in known if other != "seed") or "none"
            raise InputError(f"the method {name} has no setting {setting}; it has {own}")
        _check_type(name, setting, value, known[setting])
    try:
        return CRITERIA[name](**settings)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"the method {name} cannot be created with {settings}: {error}") from error


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
}


def _check_type(name: str, setting: str, value: Any, default: Any) -> None:
    kinds, words = _KINDS.get(type(default), ((object,), ""))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
        raise InputError(f"the method {name}: {setting} must be {words}, such as {default!r}; got {value!r}")


def check_positive(criterion: Criterion, name: str, whole: bool = False) -> None:
    """Raise InputError unless the setting of this name is a number above 0, and a `whole` one where it must be."""
    value = getattr(criterion, name)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        number = "whole number" if whole else "number"
        raise InputError(f"{type(criterion).__name__}: {name} must be a {number} above 0, got {value!r}")
