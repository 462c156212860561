"""What repairs cost is measured, and what a ridge does."""

import pytest
from helpers.runs import script

from px_seg import InputError
from px_seg.benchmark import pretrained
from px_seg.benchmark.px import Case
from px_seg.benchmark.repair import report_costs, report_ridges


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]


@pytest.mark.slow
def test_a_repair_is_measured_beside_inference(capsys) -> None:
    case = Case("resnet18", output_stride=16, batches=2, batch_size=2)
    report_costs(case, ["statistics", "reconstruct"], [0.9], [32, 64], repeats=1)
    found = rows(capsys.readouterr().out)
    assert [row[:3] for row in found] == [
        [side, "90%", repair] for side in ("32", "64") for repair in ("statistics", "reconstruct")
    ]
    # Reconstruction runs two networks, and solves systems in float64.
    assert all(float(fitted[4]) > float(gathered[4]) for gathered, fitted in (found[:2], found[2:]))
    assert all(float(row[6]) >= 1 for row in found)


def test_what_cannot_be_measured_is_refused() -> None:
    case, trained = Case("resnet18", output_stride=16), pretrained.Case()
    with pytest.raises(InputError, match="there is no repair 'magic': choose from statistics, variance, reconstruct"):
        report_costs(case, ["magic"], [0.9], [32], 1)
    with pytest.raises(InputError, match="--sides has no value"):
        report_costs(case, ["statistics"], [0.9], [], 1)
    with pytest.raises(InputError, match="above 0 and below 1, got 2"):
        report_costs(case, ["statistics"], [2], [32], 1)
    with pytest.raises(InputError, match="--ridges takes numbers above 0"):
        report_ridges(trained, ["magnitude"], [0.5], [0.0])
    done = script("ridge", "--trained.weights", "nowhere", name="bench_repair")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --trained.weights nowhere cannot be read into timm's tf_efficientnet_lite0")
