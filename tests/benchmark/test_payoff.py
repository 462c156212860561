"""What pruning pays, row by row."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.runs import make_voc

import px_seg
from px_seg import InputError
from px_seg.benchmark import exported
from px_seg.benchmark.payoff import FILE, Case, Row, report_operators, report_payoff, table
from px_seg.benchmark.rows import read_rows

METHODS = ["magnitude", "magnitude+granularity=filter"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    sizes = {"side": 32, "train_batch_size": 2, "prune_images": 2, "repeats": 3}
    return Case(encoder="tu-test_efficientnet", root=str(make_voc(tmp_path / "data")), **sizes)


def test_every_network_is_measured_once_and_rows_are_added(case: Case, tmp_path: Path) -> None:
    said: list[str] = []
    rows = report_payoff(case, METHODS[:1], [0.5], tmp_path / "out", said.append)
    assert rows == report_payoff(case, METHODS[:1], [0.5], tmp_path / "out", said.append)
    assert len(said) == 1
    rows = report_payoff(case, METHODS, [0.5, 0.9], tmp_path / "out", said.append)
    assert [(row.method, row.sparsity) for row in rows] == [(m, s) for m in METHODS for s in (0.5, 0.9)]
    assert len(said) == 4
    single, filters = rows[1], rows[3]
    assert filters.flops < 0.9 * single.flops
    assert filters.parameters < 0.9 * single.parameters
    assert filters.megabytes < 0.9 * single.megabytes
    assert rows[0].sparsity <= rows[0].effective_sparsity < rows[2].effective_sparsity
    assert filters.effective_sparsity == 1
    # Rows of another case are not taken for this one's, and digits of a sparsity do not get lost.
    report_payoff(replace(case, seed=1), METHODS[:1], [0.5], tmp_path / "out", said.append)
    for _ in range(2):
        report_payoff(case, METHODS[:1], [0.123456789], tmp_path / "out", said.append)
    assert len(said) == 6
    rows = [row for row in read_rows(tmp_path / "out" / FILE, Row) if row.seed == 0 and row.sparsity in (0.5, 0.9)]
    dense = px_seg.build_segmenter(case.encoder, classes=21, weights=None)
    size = sum(tensor.numel() * tensor.element_size() for tensor in dense.state_dict().values()) / 1e6
    assert single.dense_megabytes == pytest.approx(size, rel=1e-4)
    assert all(row.milliseconds > 0 and row.step > 0 and row.held > 0.5 and row.dense_milliseconds > 0 for row in rows)
    lines = table(rows).splitlines()
    assert len(lines) == 6
    assert lines[5].startswith(f"| {case.encoder} | 32 | `magnitude+granularity=filter` | 90% |")
    other = report_payoff(replace(case, train_batch_size=3), METHODS[:1], [0.5], tmp_path / "out", said.append)
    assert len(other) == 7
    assert other == read_rows(tmp_path / "out" / FILE, Row)


def test_where_the_time_goes_is_said_of_both_networks(case: Case) -> None:
    said: list[str] = []
    report_operators(case, METHODS[1:], [0.9], said.append)
    assert re.fullmatch(rf"{case.encoder} magnitude\+granularity=filter 90%: 0\.\d\d of the FLOPs", said[0])
    rows = {line[:40].strip(): [float(number) for number in line[40:].split()] for line in said[2:]}
    assert rows["convolutions forward"][0] > rows["convolutions forward"][1] > 0
    assert rows.pop("all") == pytest.approx([sum(column) for column in zip(*rows.values(), strict=True)], abs=0.1)


def test_what_cannot_be_measured_is_refused(case: Case, tmp_path: Path) -> None:
    for changes, message in (
        ({"side": 48}, "side must be a multiple of 32, got 48"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"prune_images": 500}, "fewer than the 500 asked for"),
        ({"repeats": 2}, "at least 3 repeats, got 2"),
    ):
        with pytest.raises(InputError, match=message):
            report_payoff(replace(case, **changes), METHODS[:1], [0.5], tmp_path / "out", print)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "payoff.csv").write_text("encoder,side\nresnet18,large\n")
    with pytest.raises(InputError, match=r"payoff.csv cannot be read as rows of this benchmark"):
        report_payoff(case, METHODS[:1], [0.5], tmp_path / "out", print)


def test_every_runtime_is_measured_dense_and_compacted(case: Case, tmp_path: Path) -> None:
    said: list[str] = []
    case = replace(case, encoder="tu-test_resnet")
    for _ in range(2):
        rows = exported.report_exported(case, METHODS[1:], [0.9], tmp_path / "out", said.append)
    assert len(said) == 1
    found = {(row.network, row.runtime): row for row in rows}
    kinds = ("torch", "onnx", "openvino", "int8")
    assert list(found) == [(network, kind) for network in ("dense", "compacted") for kind in kinds]
    assert found["dense", "torch"].share == 1
    for row in rows:
        assert row.share == pytest.approx(row.milliseconds / found["dense", "torch"].milliseconds, rel=1e-4)
        assert (row.error == 0) == (row.runtime == "torch")
        # A head that is random has logits which differ little, so that INT8's error is as large as they are.
        assert row.error < (2 if row.runtime == "int8" else 1e-3)
    for kind in kinds:
        assert found["compacted", kind].megabytes < 0.9 * found["dense", kind].megabytes
    assert found["dense", "int8"].megabytes < 0.4 * found["dense", "onnx"].megabytes
    lines = exported.table(rows).splitlines()
    assert len(lines) == 10
    assert lines[2].startswith("| tu-test_resnet | 32 | `magnitude+granularity=filter` | 90% | dense | torch | ")
