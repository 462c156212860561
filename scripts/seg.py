"""`px_seg seg` from a clone; `python scripts/seg.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["seg", *sys.argv[1:]])
