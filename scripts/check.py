"""`px_seg check` from a clone; `python scripts/check.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["check", *sys.argv[1:]])
