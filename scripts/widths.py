"""`px_seg widths` from a clone; `python scripts/widths.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["widths", *sys.argv[1:]])
