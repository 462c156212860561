"""What criteria cost is measured."""

from pathlib import Path

import pytest

from px_seg import InputError
from px_seg.benchmark.criteria import report_collapse, report_costs
from px_seg.benchmark.px import Case


def test_a_round_of_every_criterion_can_be_measured(capsys) -> None:
    case = Case("resnet18", output_stride=16, batches=1, batch_size=2, side=32)
    report_costs(case, ["magnitude", "snip", "imp"], repeats=1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == ["magnitude", "snip", "imp"]
    magnitude, snip, _ = (float(row[4]) for row in rows)
    assert magnitude < snip
    with pytest.raises(InputError, match="holds no finished run"):
        report_collapse([Path("nowhere")])
