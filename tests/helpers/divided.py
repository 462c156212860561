"""A segmentation run without dropout, whose numbers each process draws for itself; what the second process wrote.

python -m helpers.divided NOTES [MOMENT] FLAGS...

With MOMENT the second process dies, fails or is told to end at its third loss, or second.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from px_seg.benchmark.gpu import Undropped
from px_seg.commands import run_task

LARGEST = 40_000
"""Bytes of a file that the second process may write: its random states, but no network."""


class Dying(Undropped):
    """The process is killed, as for want of memory."""

    losses = 0

    def loss(self, logits, labels):
        self.losses += 1
        if self.losses == 3 and second:
            self.end()
        return super().loss(logits, labels)

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Dying):
    """The process raises an error of its own."""

    def end(self) -> None:
        raise RuntimeError("the second process has failed")


class Told(Dying):
    """The process is told to end, in its second update."""

    losses = 1

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


MOMENTS = {"dies": Dying, "fails": Failing, "told": Told}

written: set[str] = set()
second = os.environ.get("RANK") == "1"


def watch(event: str, given: tuple) -> None:
    """Note files that Python opens to write, or moves; libraries of C++ and Rust are stopped by the kernel."""
    if event == "open" and isinstance(given[0], str) and isinstance(given[2], int) and given[2] & os.O_ACCMODE:
        written.add(given[0])
    if event in ("os.rename", "os.remove", "os.mkdir"):
        written.add(str(given[0]))


if __name__ == "__main__":
    notes, *flags = sys.argv[1:]
    task = MOMENTS.get(flags[0], Undropped)
    if second:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))
        sys.addaudithook(watch)
    try:
        run_task(task, flags[task is not Undropped :])
    finally:
        if second:
            Path(notes).write_text(json.dumps(sorted(written)))
