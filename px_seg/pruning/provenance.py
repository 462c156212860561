"""Where masks come from: a typed value, parsed and validated once, where a file is read."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from px_seg.errors import InputError
from px_seg.files import parse_json
from px_seg.pruning.granularity import check_granularity


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of how masks came about. None stands for what is not known.

    `prune` fills in the first group of fields, a run of px_seg the second.

    Args:
        criterion: name of the criterion's class
        settings: the criterion's, by name
        sparsity: asked for, in [0, 1)
        rounds: of scoring and ranking
        scope: module-name prefixes that were pruned; empty for the whole model
        ranking: which weights competed: a name in `px_seg.pruning.RANKINGS`
        pattern: n:m, in place of a ranking
        granularity: what is kept or pruned whole: a name in `px_seg.pruning.GRANULARITIES`
        method: name of the criterion on the command line
        seed: of the run
        encoder: backbone, as the run named it
        weights: the backbone's start, as the run named it
        seconds: that pruning took
        repaired: how the network was repaired between the rounds, by the name of that repair
        shuffled: whether the mask of each layer was permuted afterwards
        given: path of the file that the run took the masks from
        notes: whatever else a file says, as text
    """

    criterion: str | None = None
    settings: Mapping[str, Any] | None = None
    sparsity: float | None = None
    rounds: int | None = None
    scope: tuple[str, ...] | None = None
    ranking: str | None = None
    pattern: str | None = None
    granularity: str | None = None

    method: str | None = None
    seed: int | None = None
    encoder: str | None = None
    weights: str | None = None
    seconds: float | None = None
    repaired: str | None = None
    shuffled: bool = False
    given: str | None = None

    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept_dense(self) -> list[str]:
        """The parts that were taken out of the scope again."""
        return [part.removeprefix("-") for part in self.scope or () if part.startswith("-")]

    def header(self) -> dict[str, str]:
        """The same as text by key, for the header of a file; what is not known is left out."""
        known = {name: getattr(self, name) for name in _PARSERS}
        known = {name: value for name, value in known.items() if value is not None and value is not False}
        return {**self.notes, **{name: _TEXTS.get(name, str)(value) for name, value in known.items()}}

    @classmethod
    def parse(cls, header: Mapping[str, str]) -> "Provenance":
        """What `header` wrote. InputError naming the first key whose text is not one that it writes."""
        known: dict[str, Any] = {}
        for key, text in header.items():
            if key in _PARSERS:
                try:
                    known[key] = _PARSERS[key](text)
                except ValueError:
                    raise InputError(
                        f"its description of where the masks come from cannot be read: {key} is {text[:80]!r}"
                    ) from None
        return cls(**known, notes={key: text for key, text in header.items() if key not in _PARSERS})

    def differs(self, other: "Provenance") -> str | None:
        """The name of a field in which another pruning was asked for, if both know it; None where there is none."""
        for name in ("criterion", "settings", "sparsity", "rounds", "scope", "ranking", "pattern", "granularity"):
            own, its = getattr(self, name), getattr(other, name)
            if own is not None and its is not None and own != its:
                return name
        return None


def _settings(text: str) -> dict[str, Any]:
    settings = parse_json(text)
    if not isinstance(settings, dict):
        raise ValueError(text)
    return settings


def _scope(text: str) -> tuple[str, ...]:
    scope = parse_json(text)
    parts = scope if isinstance(scope, list) else [] if scope is None else [scope]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(text)
    return tuple(parts)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError(text)
    return seconds


def _name(text: str) -> str:
    # It becomes part of a folder's name.
    if not re.fullmatch(r"[\w.+-]+", text):
        raise ValueError(text)
    return text


def _granularity(text: str) -> str:
    check_granularity(text)
    return text


def _truth(text: str) -> bool:
    if text != "true":
        raise ValueError(text)
    return True


_PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("criterion", "ranking", "pattern", "encoder", "weights", "repaired", "given"), str),
    **{"settings": _settings, "sparsity": float, "rounds": _count, "scope": _scope},
    **{"method": _name, "seed": _count, "seconds": _seconds, "shuffled": _truth},
    "granularity": _granularity,
}
"""How the text of each key is read. Its order is that of the header."""

_TEXTS: dict[str, Callable[[Any], str]] = {
    "settings": json.dumps,
    "scope": lambda scope: json.dumps(list(scope) or None),
    "seconds": lambda seconds: f"{seconds:.3f}",
    "shuffled": lambda _: "true",
}
