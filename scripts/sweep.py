"""`px_seg sweep` from a clone; `python scripts/sweep.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
