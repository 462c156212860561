"""`px_seg transfer` from a clone; `python scripts/transfer.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["transfer", *sys.argv[1:]])
