"""`px_seg rounds` from a clone; `python scripts/rounds.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["rounds", *sys.argv[1:]])
