"""What our training costs beside a plain loop, and how fast images are made ready for it.

python scripts/bench_training.py step
python scripts/bench_training.py step --encoder resnet18 --sparsity 0.5
python scripts/bench_training.py loader --root data/photo --size 513
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from px_seg.benchmark import loading, training
from px_seg.benchmark.command_line import chosen, read_flags
from px_seg.errors import one_line_errors


class Measure(NamedTuple):
    """What can be measured."""

    about: str
    case: type
    report: Callable[[Any], None]


MEASURES = {
    "step": Measure(
        "an update of our training, with and without masks, beside one of a plain loop of segmentation-models-pytorch "
        "and Accelerate",
        training.Case,
        training.report_steps,
    ),
    "loader": Measure(
        "images a second of our loader, beside torchvision's v2 transforms and Pillow",
        loading.Case,
        loading.report_loading,
    ),
}


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    every = parser.add_subcommands(dest="what")
    for name, measure in MEASURES.items():
        own = ArgumentParser(exit_on_error=False, description=measure.about)
        own.add_class_arguments(measure.case)
        every.add_subcommand(name, own, help=measure.about)
    asked = read_flags(parser)
    measure = MEASURES[asked.what]
    measure.report(chosen(measure.case, asked[asked.what]))


if __name__ == "__main__":
    with one_line_errors():
        main()
