"""Prune the backbone of a classifier at initialisation, fine-tune it and evaluate it.

    accelerate launch scripts/cls.py --sparsity 0.9
    accelerate launch scripts/cls.py --data.name cifar100 --data.download --sparsity 0.9313

Without --config a run starts from configs/cls/<data.name>.yaml.
"""

import sys
from pathlib import Path

from px_seg.command_line import parse
from px_seg.devices import part
from px_seg.errors import INTERRUPTED, one_line_errors
from px_seg.pipeline import run
from px_seg.tasks import Classification

if __name__ == "__main__":
    presets = Path(__file__).parents[1] / "configs" / "cls"
    with one_line_errors(INTERRUPTED):
        run(Classification, parse(Classification.config_type, sys.argv[1:], presets, __doc__))
        part()
