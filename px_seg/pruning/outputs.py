"""What a model returns, whatever it is wrapped in."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(outputs: Any) -> Iterator[Any]:
    """The single outputs of a model that returns one, or several in a list, a tuple or a mapping; None is none."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, tuple | list):
        for part in outputs:
            yield from leaves(part)
    elif outputs is not None:
        yield outputs
