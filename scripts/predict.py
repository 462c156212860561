"""`px_seg predict` from a clone; `python scripts/predict.py --help` says what it does."""

import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
