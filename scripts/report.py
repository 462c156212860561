"""`px_seg report` from a clone; `python scripts/report.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
