"""What PX costs compared with plain inference, measured in one process, and how far its precisions agree.

python scripts/bench_px.py round
python scripts/bench_px.py growth --output docs/px
python scripts/bench_px.py agreement --rounds 100 --batches 1 --batch_size 2 --side 64
python scripts/bench_px.py prune --device cuda --batches 53 --side 512 --rounds 100 --sparsity 0.9313
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from px_seg.benchmark import px
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors

WHAT = """round: one round of scoring and ranking, compared with inference over the same batches, in time and memory,
and where the time goes. growth: how that grows with batches, batch size, image side, rounds and depth; writes
growth.csv, growth.md and growth.png. agreement: masks pruned in each precision, compared with float64's. prune: seconds
of a whole prune in each precision"""


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["round", "growth", "agreement", "prune"], help=WHAT)
    parser.add_class_arguments(px.Case)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the shortest counts")
    parser.add_argument("--precisions", type=list[str], default=["float32"], help="precisions for agreement and prune")
    parser.add_argument("--sparsities", type=list[float], default=[0.8, 0.982], help="sparsities for agreement")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_px"), help="folder for what is written")
    asked = read_flags(parser)
    case = chosen(px.Case, asked)
    if asked.what == "round":
        px.report_round(case, asked.repeats)
    elif asked.what == "growth":
        px.report_growth(case, asked.repeats, asked.output)
    elif asked.what == "agreement":
        px.report_agreement(case, asked.precisions, asked.sparsities, asked.output)
    else:
        px.report_prune(case, asked.precisions)


if __name__ == "__main__":
    with one_line_errors():
        main()
