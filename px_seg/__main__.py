"""Where every command begins; Ctrl-C is answered in a line from the first moment on, imports included."""

import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`px_seg.commands.main`."""
    try:
        from px_seg.commands import main as begin
    except KeyboardInterrupt:
        # A launcher passes it on a second time.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    try:
        begin(argv)
    finally:
        # All is done and said: another Ctrl-C would only end the end in a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
