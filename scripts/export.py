"""`px_seg export` from a clone; `python scripts/export.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
