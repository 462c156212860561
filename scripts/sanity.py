"""`px_seg sanity` from a clone; `python scripts/sanity.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["sanity", *sys.argv[1:]])
