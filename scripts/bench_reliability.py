"""What being able to resume costs, whether memory stays flat, and whether every run of a disturbed sweep ends.

python scripts/bench_reliability.py checkpoint --encoder resnet50
python scripts/bench_reliability.py memory
python scripts/bench_reliability.py soak --output runs/soak
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from px_seg.benchmark import reliability, soak
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors

WHAT = """checkpoint: what writing one takes. memory: resident memory over a training and a pruning.
soak: many small runs in two sweeps, with kills at random"""


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["checkpoint", "memory", "soak"], help=WHAT)
    parser.add_class_arguments(reliability.Case)
    parser.add_argument("--repeats", type=int, default=5, help="checkpoints that are written, the median counts")
    parser.add_argument("--updates", type=int, default=2000, help="of the training whose memory is watched")
    parser.add_argument("--rounds", type=int, default=50, help="of the pruning whose memory is watched")
    parser.add_class_arguments(soak.Soak)
    parser.add_argument("--output", type=Path, default=Path("runs/soak"), help="new folder, for soak")
    asked = read_flags(parser)
    if asked.what == "soak":
        soak.report_soak(chosen(soak.Soak, asked), asked.output)
    elif asked.what == "memory":
        reliability.report_memory(chosen(reliability.Case, asked), asked.updates, asked.rounds)
    else:
        reliability.report_checkpoints(chosen(reliability.Case, asked), asked.repeats)


if __name__ == "__main__":
    with one_line_errors():
        main()
