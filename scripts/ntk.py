"""`px_seg ntk` from a clone; `python scripts/ntk.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["ntk", *sys.argv[1:]])
