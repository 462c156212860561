"""`px_seg cls` from a clone; `python scripts/cls.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["cls", *sys.argv[1:]])
