"""Criteria side by side: what a round of each costs, and what their masks leave of a network.

python scripts/bench_criteria.py cost
python scripts/bench_criteria.py collapse --runs runs/a runs/b
python scripts/bench_criteria.py preservation --trained.root data/photo
python scripts/bench_criteria.py agreement --methods '[px,synflow_l2]' --trained.root data/photo
python scripts/bench_criteria.py stability --methods '[px,ntk_trace]' --trained.root data/photo
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from px_seg.benchmark import criteria, pretrained, px
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors
from px_seg.pruning import CRITERIA

WHAT = """cost: one round of scoring and ranking by each criterion, compared with inference over the same batches, in
time and peak memory. collapse: of finished runs, layers without weights and kept weights that lie on no path.
preservation: of a network with trained weights, how well the pruned network is the dense one before training.
agreement: the same weights as the first of several methods. stability: the same weights once all are changed a
little"""

CHOICES = ["cost", "collapse", "preservation", "agreement", "stability"]

SPARSITIES = [0.36, 0.59, 0.8, 0.9, 0.98]


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=CHOICES, help=WHAT)
    parser.add_class_arguments(px.Case, skip={"rounds", "precision"})
    parser.add_argument("--methods", type=list[str], default=[], help="criteria for cost; by default all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the shortest counts")
    parser.add_class_arguments(pretrained.Case, "trained")
    parser.add_argument("--sparsities", type=list[float], default=SPARSITIES, help="weights to prune, as shares")
    parser.add_argument("--noise", type=float, default=1e-6, help="relative change of all weights, for stability")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/preservation"), help="for preservation")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of finished runs, for collapse")
    asked = read_flags(parser)
    if asked.what == "cost":
        case = chosen(px.Case, asked)
        criteria.report_costs(case, asked.methods, asked.repeats)
    elif asked.what == "collapse":
        criteria.report_collapse(asked.runs)
    else:
        trained = pretrained.Case(**asked.trained.as_dict())
        methods = asked.methods or [name for name in CRITERIA if name not in ("dense", "imp")]
        if asked.what == "preservation":
            pretrained.report_preservation(trained, methods, asked.sparsities, asked.output_dir)
        elif asked.what == "agreement":
            pretrained.report_agreement(trained, methods, asked.sparsities)
        else:
            pretrained.report_stability(trained, methods, asked.sparsities, asked.noise)


if __name__ == "__main__":
    with one_line_errors():
        main()
