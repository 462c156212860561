"""Prune the backbone of a DeepLabV3+ at initialisation, fine-tune it and evaluate it.

    accelerate launch scripts/seg.py --sparsity 0.8
    accelerate launch scripts/seg.py --data.name voc2012 --data.root data --sparsity 0.9313

Without --config a run starts from configs/<data.name>.yaml.
"""

import sys
from pathlib import Path

from px_seg.command_line import parse
from px_seg.devices import part
from px_seg.errors import INTERRUPTED, one_line_errors
from px_seg.pipeline import run
from px_seg.tasks import Segmentation

if __name__ == "__main__":
    presets = Path(__file__).parents[1] / "configs"
    with one_line_errors(INTERRUPTED):
        run(Segmentation, parse(Segmentation.config_type, sys.argv[1:], presets, __doc__))
        part()
