"""What a sweep compares: criteria, some with settings of their own, px+ranking=erk beside px."""

import difflib
import re
from typing import NamedTuple

from px_seg.errors import InputError
from px_seg.pruning import CRITERIA, criterion
from px_seg.run.sparsify import IDLE_WHEN_DENSE

DENSE = "dense"

_NEXT_SETTING = re.compile(r"\+(?=[A-Za-z_][\w.]*=)(?![^()]*\))")
"""Another + is part of a value, as in 1e+3 and in (px+rounds=10), or of a criterion's name."""

OWN = (*IDLE_WHEN_DENSE, "reinit")
"""Settings that a method can have of its own. The dense network that it is compared with does not have them."""


class Method(NamedTuple):
    """A criterion and the settings that its runs have and others have not."""

    criterion: str
    settings: tuple[tuple[str, str], ...] = ()
    """Values by the dotted name of a run's setting, sorted by that."""

    @classmethod
    def of(cls, text: str) -> "Method":
        """Read CRITERION or CRITERION+KEY=VALUE+KEY=VALUE; whether the criterion exists is not looked at.

        Raises InputError where a setting has no value, is given twice, or would change the dense network as well, so
        that the method's runs would not be compared with the others.
        """
        name, *parts = _NEXT_SETTING.split(text)
        settings = {}
        for part in parts:
            key, _, value = part.partition("=")
            if not value:
                raise InputError(f"{text} gives {key} no value: write {name}+KEY=VALUE, such as {name}+ranking=erk")
            if key.partition(".")[0] not in OWN:
                raise InputError(f"{text}: {_no_own_setting(key)}")
            if key in settings:
                raise InputError(f"{text} gives {key} twice: once is enough")
            settings[key] = value
        if settings and name == DENSE:
            raise InputError(f"{text}: the dense network is not pruned, so it has no such settings: write {DENSE}")
        return cls(name, tuple(sorted(settings.items())))

    @property
    def name(self) -> str:
        """What it is called in folders and tables."""
        return "+".join([self.criterion, *(f"{key}={readable(value)}" for key, value in self.settings)])

    def check(self) -> None:
        """Raise InputError for a criterion that does not exist."""
        name, plus, rest = self.criterion.partition("+")
        if plus and self.criterion not in CRITERIA and name in CRITERIA:
            raise InputError(f"{self.criterion}: {rest!r} is no setting of {name}: write {name}+KEY=VALUE")
        criterion(self.criterion)


def _no_own_setting(key: str) -> str:
    own = f"{key} is not among the settings that a method can have of its own: {', '.join(OWN)}"
    near = difflib.get_close_matches(key.partition(".")[0], OWN, n=1)
    return f"did you mean {near[0]}? {own}" if near else f"{own}; others are the same for all methods"


def readable(value: str) -> str:
    """A value as part of a folder's name; of a path its last part."""
    name = value.rstrip("/").rpartition("/")[2] if "/" in value else value
    return re.sub(r"[^\w.+-]+", "-", re.sub(r"\.(ya?ml|safetensors)$", "", name)).strip("-") or "none"


def criterion_of(name: str) -> str:
    """The criterion of a method, by the name of its folder."""
    return _NEXT_SETTING.split(name)[0]


def own_keys(name: str) -> set[str]:
    """The settings that are a method's own, by the name of its folder."""
    return {part.partition("=")[0] for part in _NEXT_SETTING.split(name)[1:]}
