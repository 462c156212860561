"""`px_seg evaluate` from a clone; `python scripts/evaluate.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
