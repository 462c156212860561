"""Progress bars that stay readable when the output goes to a file."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

from tqdm.auto import tqdm


class _Patient:
    """A stream to which nothing is written any more once its reader is gone, as a closed terminal is, or `tee`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        # By this tqdm knows which bars to take away for a line.
        return self._stream == getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


def print_line(text: str) -> None:
    """Print a line above all bars. Where nobody reads any more, work goes on."""
    tqdm.write(text, file=_Patient(sys.stdout))


def bar(items: Iterable[Any] | None = None, *, total: int | None = None, show: bool = True, **labels: Any) -> tqdm:
    """A tqdm bar, cleared when done: redrawn often on a terminal, every 15 seconds elsewhere."""
    interval = 0.1 if sys.stderr.isatty() else 15.0
    labels |= {"mininterval": interval, "maxinterval": interval, "file": _Patient(sys.stderr)}
    return tqdm(items, total=total, disable=not show, leave=False, **labels)
