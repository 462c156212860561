"""`px_seg latency` from a clone; `python scripts/latency.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["latency", *sys.argv[1:]])
