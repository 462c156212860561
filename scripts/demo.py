"""`px_seg demo` from a clone; `python scripts/demo.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
