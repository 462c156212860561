"""Repairs after pruning: what they cost compared with plain inference, and how much ridge reconstruction needs.

python scripts/bench_repair.py cost --encoder resnet18 --batches 8 --batch_size 8
python scripts/bench_repair.py ridge --trained.root data/photo
"""

from jsonargparse import ArgumentParser

from px_seg.benchmark import pretrained, px, repair
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors
from px_seg.repair import REPAIRS

WHAT = """cost: every repair beside inference over the same images, in time and peak memory, by sparsity and image side.
ridge: how well a network with trained weights is the dense one after reconstruction, on images it was not fitted to"""


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["cost", "ridge"], help=WHAT)
    parser.add_class_arguments(px.Case, skip={"rounds", "precision", "side", "sparsity", "model"})
    parser.add_argument("--repairs", type=list[str], default=list(REPAIRS), help="for cost")
    parser.add_argument("--sides", type=list[int], default=[64, 128], help="heights and widths of the images, for cost")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the shortest counts; for cost")
    parser.add_argument("--sparsities", type=list[float], default=[0.36, 0.59, 0.8])
    parser.add_class_arguments(pretrained.Case, "trained")
    parser.add_argument("--methods", type=list[str], default=["magnitude"], help="criteria, for ridge")
    parser.add_argument("--ridges", type=list[float], default=[0.0001, 0.001, 0.01, 0.1, 1.0], help="for ridge")
    asked = read_flags(parser)
    if asked.what == "cost":
        case = chosen(px.Case, asked)
        repair.report_costs(case, asked.repairs, asked.sparsities, asked.sides, asked.repeats)
    else:
        trained = pretrained.Case(**asked.trained.as_dict())
        repair.report_ridges(trained, asked.methods, asked.sparsities, asked.ridges)


if __name__ == "__main__":
    with one_line_errors():
        main()
