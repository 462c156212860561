"""What our training costs beside a plain loop, and how fast images are made ready for it.

python scripts/bench_training.py step
python scripts/bench_training.py step --encoder resnet18 --sparsity 0.5
"""

from jsonargparse import ArgumentParser

from px_seg.benchmark import training
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors

WHAT = """step: an update of our training, with and without masks, beside one of a plain loop of
segmentation-models-pytorch and Accelerate"""


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["step"], help=WHAT)
    parser.add_class_arguments(training.Case)
    asked = read_flags(parser)
    training.report_steps(chosen(training.Case, asked))


if __name__ == "__main__":
    with one_line_errors():
        main()
