"""`px_seg preservation` from a clone; `python scripts/preservation.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["preservation", *sys.argv[1:]])
