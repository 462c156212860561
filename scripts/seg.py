"""Prune the backbone of a DeepLabV3+ at initialisation, fine-tune it and evaluate it.

    accelerate launch scripts/seg.py --sparsity 0.8
    accelerate launch scripts/seg.py --data.name voc2012 --data.root data --sparsity 0.9313

Without --config a run starts from configs/<data.name>.yaml.
"""

import sys
from pathlib import Path

from px_seg.config import parse
from px_seg.errors import one_line_errors
from px_seg.pipeline import run
from px_seg.tasks import Segmentation

if __name__ == "__main__":
    with one_line_errors(
        "interrupted: --resume, in place of --overwrite, goes on from the last saved epoch or round of pruning"
    ):
        run(Segmentation, parse(sys.argv[1:], Path(__file__).parents[1] / "configs", __doc__))
