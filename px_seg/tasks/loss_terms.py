"""Losses as they are asked for: cross_entropy(label_smoothing=0.1)+0.5*tversky(alpha=0.3,beta=0.7)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from px_seg.config import RunConfig
from px_seg.errors import InputError
from px_seg.losses import balancing_weights, label_mass

BALANCED = "balanced"
"""Class weights by which all classes weigh the same."""


class Setting(NamedTuple):
    """A number that a loss takes by name."""

    default: float
    lowest: float
    highest: float
    open: bool = False
    """Whether it must be above the lowest, and not at it."""

    def allows(self, value: float) -> bool:
        return self.lowest <= value <= self.highest and not (self.open and value == self.lowest)


class Formula(NamedTuple):
    """A loss by its name: a differentiable scalar of outputs and targets, a mean over the labelled ones."""

    of: Callable[..., Tensor]
    """Called with outputs, targets, `weights` if it is `weighted`, and its settings."""
    settings: Mapping[str, Setting] = {}
    weighted: bool = False
    """Whether it takes weights of classes, a tensor or None."""


class Term(NamedTuple):
    """One loss of a sum."""

    name: str
    factor: float
    settings: Mapping[str, float]
    """All that the loss has, with their defaults."""


_TERM = re.compile(r"\s*(?:(?P<factor>[^*()]*)\*)?\s*(?P<name>\w+)\s*(?:\((?P<settings>[^()]*)\))?\s*")


def terms_of(text: str, known: Mapping[str, Formula]) -> tuple[Term, ...]:
    """The losses of the sum that `text` is, each with its factor and settings.

    Raises InputError for what is no such sum, an unknown loss or setting, and a number out of its range.
    """
    choice = f"choose one of {', '.join(known)}, or a sum such as {_example(known)}"
    terms = []
    for part in re.split(r"(?<![0-9][eE])\+(?![^()]*\))", text):
        found = _TERM.fullmatch(part)
        if found is None or found["name"] not in known:
            raise InputError(f"there is no loss {part.strip()!r}: {choice}")
        factor = _number(found["factor"], part) if found["factor"] is not None else 1.0
        if not 0 < factor < float("inf"):
            raise InputError(f"the factor of {found['name']} in the loss {text} must be above 0, got {factor:g}")
        terms.append(Term(found["name"], factor, _settings(found["name"], found["settings"] or "", known)))
    return tuple(terms)


def _settings(name: str, text: str, known: Mapping[str, Formula]) -> dict[str, float]:
    settings = known[name].settings
    values, given = {key: setting.default for key, setting in settings.items()}, set[str]()
    for pair in filter(None, map(str.strip, text.split(","))):
        key, equals, value = map(str.strip, pair.partition("="))
        if key in given:
            raise InputError(f"the loss {name} has {key} twice: keep one")
        given.add(key)
        if not equals or key not in settings:
            have = f"its settings are {', '.join(settings)}" if settings else "it has none"
            raise InputError(f"{pair!r} is no setting of the loss {name}: {have}, each written as KEY=NUMBER")
        values[key] = _number(value, pair)
        if not settings[key].allows(values[key]):
            low, high = settings[key].lowest, settings[key].highest
            lower = f"{'above' if settings[key].open else 'at least'} {low:g}"
            raise InputError(f"{key} of the loss {name} must be {lower} and at most {high:g}, got {value}")
    return values


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text.strip()!r} in the loss {where.strip()!r} is no number") from None


def _example(known: Mapping[str, Formula]) -> str:
    first, *others = known
    return f"{first}+0.5*{others[0]}"


class TrainingLoss:
    """The sum of a task's losses, each a mean over labelled targets."""

    def __init__(self, terms: Sequence[Term], known: Mapping[str, Formula], weights: Tensor | None = None) -> None:
        """`weights` (C,) of the classes, for those of the losses that take them."""
        self._weights = weights
        self._copies: dict[torch.device, Tensor] = {}
        self._parts = [(known[term.name], term) for term in terms]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A differentiable scalar; 0 where no target is labelled."""
        weights = self._weights_on(outputs.device)
        parts = [
            term.factor
            * formula.of(outputs, targets, **({"weights": weights} if formula.weighted else {}), **term.settings)
            for formula, term in self._parts
        ]
        return sum(parts[1:], parts[0])

    def mass(self, targets: Tensor) -> Tensor:
        """What a mean over the targets is divided by: their weights, or where a loss has none their number."""
        weighted = all(formula.weighted for formula, _ in self._parts)
        return label_mass(targets, weights=self._weights_on(targets.device) if weighted else None)

    def _weights_on(self, device: torch.device) -> Tensor | None:
        """The weights where they are asked for, copied once: a copy waits for the device."""
        if self._weights is None:
            return None
        if device not in self._copies:
            self._copies[device] = self._weights.to(device)
        return self._copies[device]


def check_loss(config: RunConfig, known: Mapping[str, Formula]) -> tuple[Term, ...]:
    """The configured losses. Raises InputError where they, or the weights of classes, cannot be."""
    terms = terms_of(config.loss, known)
    weights = config.class_weights
    if weights is None:
        return terms
    if not any(known[term.name].weighted for term in terms):
        takes = ", ".join(name for name, formula in known.items() if formula.weighted)
        raise InputError(f"class_weights are for {takes}, which the loss {config.loss} has not: leave them out")
    if isinstance(weights, str):
        if weights != BALANCED:
            raise InputError(f"class_weights must be {BALANCED}, or a list of numbers, one a class: got {weights!r}")
    elif min(weights, default=0) < 0 or not any(weights):
        raise InputError(f"class_weights must be at least 0, and not all 0: got {weights}")
    return terms


def check_classes(config: RunConfig, classes: Sequence[str]) -> None:
    """Raise InputError for weights of classes that are not one a class."""
    given = config.class_weights
    if given is not None and not isinstance(given, str) and len(given) != len(classes):
        raise InputError(f"class_weights has {len(given)} numbers for {len(classes)} classes: give one a class")


def class_weights(config: RunConfig, counts: Callable[[], Tensor]) -> Tensor | None:
    """The configured weights, (C,) float32, or None; `counts` is asked how many labels each class has, if need be."""
    given = config.class_weights
    if given is None:
        return None
    return balancing_weights(counts()).float() if isinstance(given, str) else torch.tensor(given)
