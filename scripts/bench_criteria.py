"""Criteria side by side: what a round of each costs, and what their masks leave of a network.

python scripts/bench_criteria.py cost
python scripts/bench_criteria.py collapse --runs runs/a runs/b
"""

import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from px_seg.benchmark import criteria, px
from px_seg.errors import InputError, one_line, one_line_errors

WHAT = """cost: one round of scoring and ranking by each criterion, compared with inference over the same batches, in
time and peak memory. collapse: of finished runs, layers without weights and kept weights that lie on no path"""


def main() -> None:
    parser = ArgumentParser(exit_on_error=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["cost", "collapse"], help=WHAT)
    parser.add_class_arguments(px.Case, skip={"rounds", "precision"})
    parser.add_argument("--methods", type=list[str], default=[], help="criteria for cost; by default all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the shortest counts")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of finished runs, for collapse")
    try:
        asked = parser.parse_args(sys.argv[1:])
    except Exception as error:
        raise InputError(one_line(error)) from None
    if asked.what == "cost":
        case = px.Case(**{f.name: asked[f.name] for f in fields(px.Case) if f.name in asked})
        criteria.report_costs(case, asked.methods, asked.repeats)
    else:
        criteria.report_collapse(asked.runs)


if __name__ == "__main__":
    with one_line_errors():
        main()
