"""Where every command begins; Ctrl-C is answered in a line from the first moment on, imports included."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`px_seg.commands.main`."""
    try:
        from px_seg.commands import main as begin
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    begin(argv)


if __name__ == "__main__":
    main()
