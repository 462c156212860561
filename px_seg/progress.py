"""Progress bars that stay readable when the output goes to a file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def bar(items: Iterable[Any] | None = None, *, total: int | None = None, show: bool = True, **labels: Any) -> tqdm:
    """A tqdm bar, cleared when done: redrawn often on a terminal, every 15 seconds elsewhere."""
    interval = 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(items, total=total, disable=not show, leave=False, mininterval=interval, maxinterval=interval, **labels)
