"""The commands: what `px_seg NAME`, `python -m px_seg NAME` and scripts/NAME.py do.

A room that draws, or that few commands need, is imported by these alone, so that the others begin sooner.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from px_seg.command_line import parse
from px_seg.config import CONFIGS, TransferConfig
from px_seg.deploy import check_formats, export_missing, measure_missing
from px_seg.deploy.demo_command import DEMO, show
from px_seg.deploy.evaluate_command import EVALUATE, score
from px_seg.deploy.export_command import EXPORT, export
from px_seg.deploy.latency_command import LATENCY, measure
from px_seg.deploy.predict_command import PREDICT, label
from px_seg.devices import leave_group
from px_seg.errors import INTERRUPTED, UNTOUCHED, InputError, one_line_errors
from px_seg.files import user_path
from px_seg.flags import check_once
from px_seg.inspection.command import CHECK, check
from px_seg.run.pipeline import run
from px_seg.sweep import Request, plan_sweep, run_sweep
from px_seg.sweep.command_line import launcher, read
from px_seg.sweep.sanity import check_requests
from px_seg.tasks import TASKS, Task, presets
from px_seg.termination import Termination
from px_seg.transfer import study

SWEEP = """Carry out many runs that differ in method, sparsity, seed and any other setting, and report on them.

    px_seg sweep --preset demo
    px_seg sweep --task seg --methods px,magnitude,random,dense --sparsities paper --seeds 0,1,2 \\
        --data.name voc2012 --output_dir runs/fig4

The same command continues a sweep that was stopped. `px_seg report` rebuilds the report at any time."""

REPORT = """Rebuild the report of a sweep from its finished runs: CSV, Markdown table, figures, and one HTML page.

    px_seg report runs/fig4"""

PRESERVATION = """Compare methods by how well a pruned network still is the dense one, without training anything.

    px_seg preservation --task cls --weights runs/pretrained --methods px,magnitude,ntk_trace --sparsities 0.8,0.9 \\
        --output_dir runs/preservation

The network is the one that a run with these flags would start from; given folders of finished runs, theirs, under
their masks. The same command continues a comparison that was stopped."""

SANITY = """Sanity checks of pruning methods: is it the choice of the weights, or only how many each layer keeps?

    px_seg sanity --task cls --methods px,magnitude --sparsities 0.9 --seeds 0,1,2 --output_dir runs/sanity

Every method is run as it is and, with its masks, with these shuffled inside the layers, with new weights, and with as
many weights in every layer, chosen at random and by magnitude. The report has a table of them; flags are those of
`px_seg sweep`, and the same command continues checks that were stopped."""

NTK = """Compare the spectrum of the Neural Tangent Kernel of pruned networks with the dense one's, before any training.

    px_seg ntk --task cls --encoder resnet20 --methods px,magnitude,random --sparsities 0.9 --output_dir runs/ntk
    px_seg ntk runs/sweep --images 8 --outputs 16 --output_dir runs/ntk

Eigenvalues on logarithmic axes, and a table: distance from the dense spectrum, alignment with the dense kernel, trace,
largest eigenvalue, condition number, effective rank, and PX's bound on the trace over the trace. Of more outputs than a
kernel can hold some are drawn at random; trace and largest eigenvalue of all are then estimates with their errors."""

WIDTHS = """Compare how wide pruned networks still are, and where R flows, before any training.

    px_seg widths --task cls --methods px,px_conserved,magnitude --sparsities 0.9,0.98 --output_dir runs/widths
    px_seg widths runs/sweep --output_dir runs/widths

For every layer its weights, its channels on a path from the image to an output, and the share of R that passes it; how
R reaches each residual sum, through the branch and through the shortcut; effective sparsity, and the number of
paths."""

TRANSFER = """Prune a backbone on each of several tasks, and try the masks on all of them.

    accelerate launch -m px_seg transfer --sparsity 0.9
    accelerate launch -m px_seg transfer --data.name imagenet --data.root data/imagenet --weights mocov2

Without --config a study starts from configs/transfer/<data.name>.yaml. The same command continues
a study that was stopped."""


def run_task(task: type[Task], argv: Sequence[str]) -> None:
    """Prune, fine-tune and evaluate one network."""
    termination = Termination()
    with one_line_errors(INTERRUPTED, UNTOUCHED), termination.listening():
        run(task, parse(task.config_type, argv, presets(task), task.about), termination=termination)
        leave_group()


def run_transfer(argv: Sequence[str]) -> None:
    """Carry out a study of masks across tasks."""
    termination = Termination()
    again = "interrupted: the same command, without --overwrite, continues the study"
    with one_line_errors(again), termination.listening():
        study(parse(TransferConfig, argv, CONFIGS / "transfer", TRANSFER), termination)
        leave_group()


def sweep(argv: Sequence[str]) -> None:
    """Carry out a sweep, and report on what is finished; status 1 where a run is not."""
    with one_line_errors("interrupted: the same command continues the sweep"):
        request, asked = read(argv, SWEEP)
        check_formats(asked.export)
        sys.exit(_carried_out([request], asked))


def sanity(argv: Sequence[str]) -> None:
    """Carry out the sanity checks of pruning methods, and report on them; status 1 where a run is not finished."""
    with one_line_errors("interrupted: the same command continues the checks"):
        request, asked = read(argv, SANITY, "sanity")
        check_formats(asked.export)
        sys.exit(_carried_out(check_requests(request), asked))


def _carried_out(requests: Sequence[Request], asked: argparse.Namespace) -> bool:
    """Carry out sweeps in one folder, each once the one before is finished, and report; whether a run is not.

    Of a dry run the first alone is looked at in full: the others may need its runs.
    """
    for number, request in enumerate(requests, 1):
        outcome = run_sweep(request, launcher(asked, request), asked.retry, asked.dry_run)
        if asked.dry_run and number < len(requests):
            then = [cell for later in requests[number:] for cell in plan_sweep(later)]
            print(f"and once these are finished {len(then)} more: {', '.join(dict.fromkeys(c.method for c in then))}")
        if outcome.unfinished or asked.dry_run:
            break
    if outcome.done and not asked.dry_run:
        from px_seg.report import read_runs, report

        folders = [run.folder for run in read_runs(request.output_dir)]
        wanted = [partial(export_missing, folders, asked.export)] if asked.export else []
        failed = _problems([*wanted, *[partial(measure_missing, folders)] * asked.latency])
        # What cannot be exported or measured is no reason to be without a report on hours of work.
        report(request.output_dir)
        if failed:
            raise InputError(". ".join(failed))
    return bool(outcome.unfinished)


def _problems(works: Sequence[Callable[[], None]]) -> list[str]:
    """What kept some of the works from being done; all are tried."""
    found = []
    for work in works:
        try:
            work()
        except InputError as error:
            found.append(str(error))
    return found


def rounds(argv: Sequence[str]) -> None:
    """Compare numbers of rounds and of images."""
    from px_seg.comparison.budgets import compare_budgets, read_budgets

    with one_line_errors("interrupted: the same command continues the comparison"):
        compare_budgets(*read_budgets(argv, ROUNDS))


def rebuild_report(argv: Sequence[str]) -> None:
    """Write the report of a sweep again."""
    from px_seg.report import report

    parser = argparse.ArgumentParser(
        "px_seg report", description=REPORT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder of the sweep; the report is written to report/ inside it")
    with one_line_errors():
        report(user_path(parser.parse_args(argv).folder, "the folder"))


def compare_networks(name: str, argv: Sequence[str]) -> None:
    """Compare pruned networks before any training."""
    from px_seg.comparison.command import compare, read_asked
    from px_seg.comparison.measures import MEASURES

    with one_line_errors("interrupted: the same command continues the comparison"):
        compare(*read_asked(name, argv, COMPARISONS[name], MEASURES[name]))


def measure_latency(argv: Sequence[str]) -> None:
    """Measure the networks of finished runs."""
    with one_line_errors():
        measure(argv)


def check_data(argv: Sequence[str]) -> None:
    """Check a dataset; status 1 where something is wrong with it."""
    with one_line_errors("interrupted: what was found good is on record, and the same command goes on"):
        sys.exit(not check(argv))


def export_run(argv: Sequence[str]) -> None:
    """Write a run's network for other runtimes."""
    with one_line_errors("interrupted: the same command begins again"):
        export(argv)


def evaluate(argv: Sequence[str]) -> None:
    """Evaluate a run's network, or exported files."""
    with one_line_errors():
        score(argv)


def predict(argv: Sequence[str]) -> None:
    """Label images; status 1 where one was left out."""
    with one_line_errors("interrupted: what was labelled is in the folder"):
        sys.exit(not label(argv))


def demo(argv: Sequence[str]) -> None:
    """Show runs' networks on a local page."""
    with one_line_errors():
        show(argv)


ROUNDS = """Compare the masks of several numbers of rounds, of images, and of draws of the images, without training.

    px_seg rounds --task cls --methods px,px_conserved --sparsities 0.9 --output_dir runs/rounds

The reference has the most rounds and all images that prune: how few give its mask? Beside the table, how the mask
settles round by round, and the flow of R through every branch."""

COMPARISONS = {"preservation": PRESERVATION, "ntk": NTK, "widths": WIDTHS}
"""The commands that compare networks before training, and what they are about."""


class Command(NamedTuple):
    """One command."""

    about: str
    """What it does, in the first line; then examples."""
    work: Callable[[Sequence[str]], None]
    """Given the other words of the command line."""


COMMANDS: dict[str, Command] = {
    **{name: Command(task.about, partial(run_task, task)) for name, task in TASKS.items()},
    "transfer": Command(TRANSFER, run_transfer),
    "sweep": Command(SWEEP, sweep),
    "sanity": Command(SANITY, sanity),
    "report": Command(REPORT, rebuild_report),
    **{name: Command(about, partial(compare_networks, name)) for name, about in COMPARISONS.items()},
    "rounds": Command(ROUNDS, rounds),
    "check": Command(CHECK, check_data),
    "export": Command(EXPORT, export_run),
    "evaluate": Command(EVALUATE, evaluate),
    "latency": Command(LATENCY, measure_latency),
    "predict": Command(PREDICT, predict),
    "demo": Command(DEMO, demo),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Carry out the command that the first word names, by default from this process's own command line.

    Exits with the statuses of `px_seg.errors.one_line_errors`.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    with one_line_errors(), Termination().listening():
        if name not in COMMANDS:
            raise InputError(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}")
        check_once(rest)
        COMMANDS[name].work(rest)


def overview() -> str:
    """What `px_seg --help` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about.splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: px_seg COMMAND [--flag value ...]", "", *lines, "", "`px_seg COMMAND --help` lists the flags of each."]
    )
