"""Prune a backbone on each of several tasks, and try the masks on all of them.

    accelerate launch scripts/transfer.py --sparsity 0.9
    accelerate launch scripts/transfer.py --data.name imagenet --data.root data/imagenet --weights mocov2

Without --config a study starts from configs/transfer/<data.name>.yaml. One that was stopped goes on when it is
asked for again.
"""

import sys
from pathlib import Path

from px_seg.command_line import parse
from px_seg.config import TransferConfig
from px_seg.devices import part
from px_seg.errors import one_line_errors
from px_seg.transfer import study

if __name__ == "__main__":
    presets = Path(__file__).parents[1] / "configs" / "transfer"
    with one_line_errors("interrupted: the same command, without --overwrite, goes on with the study"):
        study(parse(TransferConfig, sys.argv[1:], presets, __doc__))
        part()
