"""What criteria cost is measured."""

from pathlib import Path

import pytest
from helpers.runs import script

from px_seg import InputError
from px_seg.benchmark.criteria import report_collapse, report_costs
from px_seg.benchmark.px import Case


@pytest.mark.slow
def test_a_round_of_every_criterion_can_be_measured(capsys) -> None:
    case = Case("resnet18", output_stride=16, batches=1, batch_size=2, side=32)
    report_costs(case, ["magnitude", "snip", "imp"], repeats=1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == ["magnitude", "snip", "imp"]
    magnitude, snip, _ = (float(row[4]) for row in rows)
    assert magnitude < snip
    with pytest.raises(InputError, match="holds no finished run"):
        report_collapse([Path("nowhere")])


@pytest.mark.slow
def test_the_script_measures_it() -> None:
    small = ("--encoder", "resnet18", "--output_stride", 16, "--batches", 1, "--batch_size", 2, "--side", 32)
    done = script("cost", *small, "--methods", "[magnitude,ntk_trace]", "--repeats", 1, name="bench_criteria")
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[4:]] == ["magnitude", "ntk_trace"]
    done = script("agreement", "--methods", "[px]", name="bench_criteria")
    assert done.returncode == 2
    assert done.stderr == "error: agreement needs two methods or more: give --methods\n"
