"""Carry out many runs that differ in method, sparsity, seed and whatever else is varied, and report on them.

    python scripts/sweep.py --preset demo
    python scripts/sweep.py --task seg --methods px,magnitude,random,dense --sparsities paper --seeds 0,1,2 \\
        --config configs/voc2012.yaml --output_dir runs/fig4

The same command goes on with a sweep that was stopped. scripts/report.py rebuilds the report at any time.
"""

import sys
from pathlib import Path

from px_seg.errors import one_line_errors
from px_seg.report import report
from px_seg.sweep import conduct
from px_seg.sweep.command_line import launcher, read


def main() -> None:
    scripts = Path(__file__).parent
    request, asked = read(sys.argv[1:], scripts.parent / "configs", __doc__)
    outcome = conduct(request, launcher(asked, request, scripts), asked.retry, asked.dry_run)
    if outcome.done and not asked.dry_run:
        report(request.output_dir)
    sys.exit(bool(outcome.unfinished))


if __name__ == "__main__":
    with one_line_errors("interrupted: the same command goes on with the sweep"):
        main()
