"""Errors that a person should read as one line, not as a traceback."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

INTERRUPTED = "interrupted: --resume, instead of --overwrite, continues from what was saved last"
"""What a script that carries out a run says when it is told to end."""

UNTOUCHED = "interrupted: nothing was written yet, the same command begins again"
"""The same before the run's folder was opened."""


class InputError(ValueError):
    """Something given to px_seg cannot be used.

    The message is one line that names the thing and what to do instead.
    """


class Taken(InputError):
    """Another process is at work on the same thing: wait for it."""

    status = 75
    """By which a shell knows it: EX_TEMPFAIL of sysexits.h."""


class TrainingDiverged(RuntimeError):
    """The loss or a weight became NaN or infinite; the message says when."""


class Stopped(KeyboardInterrupt):
    """This process was told to end by a signal; what is worth it has been saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.untouched = True
        """Whether nothing had been begun that could be continued."""

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
def one_line_errors(interrupted: str = "interrupted", untouched: str | None = None) -> Iterator[None]:
    """Within the context of a script, end it with one line where the user can act.

    `interrupted`, which begins with that word, is what to say after Ctrl-C; `untouched`, if that differs, while nothing
    has been begun.

    Exits with status 2 for an InputError and for a data loader's process that died, 75 for what is Taken, 3 for a
    TrainingDiverged, 130 for Ctrl-C, 143 for SIGTERM. Anything else is a defect of the program and keeps its traceback.
    """
    try:
        yield
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        _say(f"{'' if rank == '0' else f'[rank {rank}] '}error: {error}")
        sys.exit(error.status if isinstance(error, Taken) else 2)
    except TrainingDiverged as error:
        _say(f"error: training diverged: {error}")
        sys.exit(3)
    except RuntimeError as error:
        # torch has no exception of its own for it.
        if not re.match(r"DataLoader worker \(pid.*(killed|exited)", str(error)):
            raise
        _say(f"error: a process that loads images has died, mostly for want of memory: lower --data.workers ({error})")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        by = "interrupted" if stopped.number == signal.SIGINT else f"stopped by {stopped.cause}"
        said = untouched if untouched and stopped.untouched else interrupted
        _say(said.replace("interrupted", by, 1))
        sys.exit(stopped.status)


def _say(line: str) -> None:
    """On standard error, for whoever still reads it."""
    # print writes the line and its end one after the other: the lines of two processes of a run
    # that fail at the same time can come out as one.
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
