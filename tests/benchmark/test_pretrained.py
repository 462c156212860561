"""Criteria on trained weights: rows of what is preserved, and how far masks agree."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from helpers.runs import make_voc
from safetensors.torch import save_file

from px_seg import InputError
from px_seg.benchmark.pretrained import Case, report_agreement, report_preservation, report_stability
from px_seg.benchmark.repair import report_ridges
from px_seg.comparison.preservation_rows import read_rows


@pytest.fixture
def case(tmp_path: Path) -> Case:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    root = make_voc(tmp_path / "data")
    sizes = {"side": 32, "prune_images": 4, "judge_images": 4, "batch_size": 2}
    return Case(weights=str(tmp_path / "weights.safetensors"), root=str(root), **sizes)


def test_rows_are_measured_once(case: Case, tmp_path: Path) -> None:
    said: list[str] = []
    settings = "pruning.settings.conserve=0.5+pruning.settings.statistics=batches+rounds=2"
    methods = ["magnitude+ranking=erk", f"px+{settings}", "snip"]
    report_preservation(case, methods, [0.5], tmp_path / "out", said.append)
    rows = read_rows(tmp_path / "out")
    assert [row.method for row in rows] == methods
    assert list(rows[0].cka) == ["blocks.1", "blocks.3", "blocks.5", "global_pool"]
    assert rows[1].cka != rows[2].cka
    assert f"| `px+{settings}` | 50% |" in said[-1]
    assert (tmp_path / "out" / "preservation.png").is_file()
    with pytest.raises(InputError, match="holds a comparison with other settings"):
        report_preservation(replace(case, side=64), methods, [0.5], tmp_path / "out", said.append)
    before = len(said)
    report_preservation(case, methods, [0.5], tmp_path / "out", said.append)
    assert len(said) == before + 1


def test_a_segmenter_has_the_encoders_stages(case: Case, tmp_path: Path) -> None:
    report_preservation(replace(case, segmenter=True), ["magnitude"], [0.5], tmp_path / "out", lambda _: None)
    (row,) = read_rows(tmp_path / "out")
    assert list(row.cka) == [f"encoder.{stage}" for stage in range(1, 6)]


def test_masks_are_held_against_the_first_methods(case: Case, capsys) -> None:
    """Of a classifier whose last layer is not pruned PX's R is a multiple of SynFlow-L2's."""
    methods = ["px+rounds=2", "synflow_l2+rounds=2", "random"]
    report_agreement(replace(case, double=True), methods, [0.5])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows[0] == ["`synflow_l2+rounds=2`", "50%", "`px+rounds=2`", "100.000%", "100.000%"]
    assert float(rows[1][3][:-1]) == pytest.approx(50, abs=1)
    with pytest.raises(InputError, match="two methods or more"):
        report_agreement(case, ["px"], [0.5])


def test_more_masks_change_where_weights_change_more(case: Case, capsys) -> None:
    shared = []
    for noise in (1e-7, 0.1):
        report_stability(case, ["magnitude"], [0.5], noise)
        shared.append(float(capsys.readouterr().out.splitlines()[4].split("|")[3].strip()[:-1]))
    # A change of a tenth moves those weights over the threshold that lie within about a tenth of it.
    assert shared[0] > 99.999
    assert 90 < shared[1] < 99
    with pytest.raises(InputError, match="--noise must be above 0 and below 1, got 0"):
        report_stability(case, ["magnitude"], [0.5], 0.0)


def test_ridges_are_compared_and_beyond_a_large_one_nothing_changes(case: Case, capsys) -> None:
    report_ridges(case, ["magnitude"], [0.5], [1e-3, 1e6, 1e9])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[2] for row in rows] == ["none", "0.001", "1e+06", "1e+09"]
    before, loose, tight, tighter = ([float(cell) for cell in row[3:]] for row in rows)
    assert before != loose != tight
    assert tighter == pytest.approx(tight, abs=0.01)


def test_what_cannot_be_measured_is_refused(case: Case, tmp_path: Path) -> None:
    for wrong, methods, message in (
        (
            replace(case, weights="nowhere"),
            ["px"],
            "--trained.weights nowhere cannot be read into timm's tf_efficientnet_lite0",
        ),
        (replace(case, network="resnet18"), ["px"], "cannot be read into timm's resnet18"),
        (replace(case, judge_images=9), ["px"], "has 4 images in val, fewer than the 9 asked for"),
        (replace(case, side=8), ["px"], "side 32: give more"),
        (replace(case, judge_images=3), ["px"], "judge_images 4, side 32: give more"),
        (replace(case, stages=()), ["px"], "--trained.stages names no part"),
        (replace(case, threads=0), ["px"], "--trained.threads must be at least 1"),
        (replace(case, network="pixienet"), ["px"], "timm has no network 'pixienet'"),
        (case, [], "--methods has no value"),
        (case, ["px", "px"], "--methods has a value twice"),
        (case, ["px+rounds=2+ranking=erk", "px+ranking=erk+rounds=2"], "--methods has a value twice"),
        (case, ["px+pruning.settings.seed=3"], "settings.seed=3: give --trained.seed instead"),
        (case, ["px+recalibrate=statistics"], "recalibrate is not varied here, but rounds, ranking, granularity and"),
        (case, ["magnitude", "px+ranking=foo"], r"px\+ranking=foo: there is no ranking 'foo'"),
        (case, ["magnitude", "px+rounds=0"], r"px\+rounds=0: rounds must be a whole number of at least 1"),
        (replace(case, stages=("layer1",)), ["px"], "has no part 'layer1': give --trained.head and --trained.stages"),
        (case, ["imp"], "imp cannot be compared without training"),
        (case, ["dense"], "dense cannot be compared without training"),
        (case, ["px+pruning.settings.conserve=2"], "conserve must be a number from 0 to 1"),
        (case, ["px+rounds=many"], r"px\+rounds=many: rounds must be a whole number"),
        (case, ["px+conserve"], r"px\+conserve: 'conserve' is no setting of px: write px\+KEY=VALUE"),
    ):
        with pytest.raises(InputError, match=message):
            report_preservation(wrong, methods, [0.5], tmp_path / "out", lambda _: None)
    with pytest.raises(InputError, match=r"above 0 and below 1, got 1\.5"):
        report_preservation(case, ["px"], [0.5, 1.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_other_weights_are_not_mixed(case: Case, tmp_path: Path) -> None:
    report_preservation(case, ["magnitude"], [0.5], tmp_path / "out", lambda _: None)
    torch.manual_seed(1)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), case.weights)
    with pytest.raises(InputError, match="other settings \\(weights_digest is"):
        report_preservation(case, ["magnitude", "random"], [0.5], tmp_path / "out", lambda _: None)
