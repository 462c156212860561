"""Being told to end: by Ctrl-C, by a cluster's SIGTERM, or by the death of the launcher. Work in hand is saved first.

A `Termination` that listens turns these into `px_seg.errors.Stopped`: at once, or after the work that must not be cut
in two.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from px_seg.errors import Stopped

ENDING = [number for name in ("SIGTERM", "SIGINT", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
"""Signals that tell a process to end: from others, from Ctrl-C, from a terminal that is closed."""

AGAIN = 1.0
"""Seconds after which another Ctrl-C is a person's: torchrun passes the first one on as well."""


class Termination:
    """Whether this process has been told to end, and what becomes of it.

    One that does not listen is told nothing but the death of the process that launched it, or of the one whose number
    is in PX_SEG_BESIDE, which a sweep sets.
    """

    def __init__(self) -> None:
        self._told: int | None = None
        self._since = 0.0
        self._deferred = 0
        # An orphan would go on beside whatever is started in its place. A shell, unlike a launcher, may go.
        # Both are set by launchers alone; other settings of accelerate are exported by people too.
        launched = {"ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
        self._parent = os.getppid() if launched else None
        beside = os.environ.get("PX_SEG_BESIDE", "")
        self._beside = int(beside) if beside.isdecimal() and os.name == "posix" else None

    @property
    def told(self) -> int | None:
        """The signal that this process was told to end by; None while it was not."""
        if self._told is None and self._orphaned():
            self._told = signal.SIGTERM
        return self._told

    def _orphaned(self) -> bool:
        if self._parent not in (None, os.getppid()):
            return True
        if self._beside is not None:
            try:
                os.kill(self._beside, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                # Somebody else's process by now, or one of ours that may not be signalled.
                return False
        return False

    def check(self) -> None:
        """Raise Stopped if this process was told to end."""
        if (number := self.told) is not None:
            raise Stopped(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the context signals are noted, for `check`; a second Ctrl-C raises Stopped all the same."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the context signals raise Stopped, except for those that are ignored, as nohup has it for one.

        They come to the main thread alone: in another nothing is heard.
        """
        main = threading.current_thread() is threading.main_thread()
        heard = [number for number in ENDING if main and signal.getsignal(number) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._hear) for number in heard}
        try:
            yield
        finally:
            for number, action in former.items():
                signal.signal(number, action)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._told is not None:
            insists = number == signal.SIGINT and time.monotonic() - self._since > AGAIN
            if self._deferred and not insists:
                return
        else:
            self._told, self._since = number, time.monotonic()
            if self._deferred:
                # Not through sys.stderr, which may be in the middle of a line.
                with suppress(OSError):
                    os.write(2, f"\n{Stopped(number).cause}: saving; Ctrl-C again stops at once\n".encode())
                return
        raise Stopped(number)
