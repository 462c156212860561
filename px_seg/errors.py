"""Errors that a person should read as one line, not as a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted: --resume, instead of --overwrite, continues from what was saved last"
"""What a script that carries out a run says when it is told to end."""


class InputError(ValueError):
    """Something given to px_seg cannot be used.

    The message is one line that names the thing and what to do instead.
    """


class TrainingDiverged(RuntimeError):
    """The loss or a weight became NaN or infinite; the message says when."""


class Stopped(KeyboardInterrupt):
    """This process was told to end by a signal; what is worth it has been saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """By which a shell knows it: 128 and the signal, 143 for SIGTERM and 130 for Ctrl-C."""
        return 128 + self.number

    @property
    def cause(self) -> str:
        """Who told it to, for a reader."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """What an error says, folded into one line and cut to `limit` characters; its class name if it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Within the context of a script, end it with one line where the user can act.

    `interrupted`, which begins with that word, is what to say after Ctrl-C.

    Exits with status 2 for an InputError, 3 for a TrainingDiverged, 130 for Ctrl-C, 143 for SIGTERM. Anything
    else is a defect of the program and keeps its traceback.
    """
    try:
        yield
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        _say(f"{'' if rank == '0' else f'[rank {rank}] '}error: {error}")
        sys.exit(2)
    except TrainingDiverged as error:
        _say(f"error: training diverged: {error}")
        sys.exit(3)
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        by = "interrupted" if stopped.number == signal.SIGINT else f"stopped by {stopped.cause}"
        _say(interrupted.replace("interrupted", by, 1))
        sys.exit(stopped.status)


def _say(line: str) -> None:
    # print writes the line and its end one after the other: the lines of two processes of a run
    # that fail at the same time can come out as one.
    sys.stderr.write(f"{line}\n")
