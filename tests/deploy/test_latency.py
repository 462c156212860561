"""What networks cost: measured in turns, and printed for runs."""

import json
import re

import pytest
import torch
from helpers.runs import go
from torch import Tensor, nn

import px_seg
from px_seg import InputError, cost
from px_seg.commands import main
from px_seg.deploy import measure_missing, read_measured, runs
from px_seg.deploy.latency import network_costs


class Clock:
    """Time that passes only when a network says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Takes(nn.Module):
    """A warm-up, then so many seconds a forward pass; and memory each time."""

    def __init__(self, name: str, clock: Clock, seconds: list[float], floats: int, log: list[str]) -> None:
        super().__init__()
        self.layer, self.name, self.clock, self.floats, self.log = nn.Conv2d(3, 2, 1), name, clock, floats, log
        self.seconds = iter([100.0, *seconds])

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.log.append(self.name)
        self.clock.now += next(self.seconds, 0.0)
        torch.zeros(self.floats)
        return self.layer(x)


def test_networks_are_measured_in_turns_in_eval_mode_and_come_back_as_they_were(monkeypatch) -> None:
    clock, log = Clock(), []
    monkeypatch.setattr(cost, "time", clock)
    slow = Takes("slow", clock, [0.05, 0.01, 0.04, 0.02, 0.03], 2**20, log).train()
    fast = Takes("fast", clock, [0.002] * 5, 0, log).train()
    costs = network_costs({"slow": slow, "fast": fast}, torch.randn(2, 3, 4, 4), repeats=5)
    assert costs["slow"].milliseconds == pytest.approx(30)
    assert costs["slow"].quartiles == pytest.approx((20, 40))
    assert costs["fast"].milliseconds == pytest.approx(2)
    assert costs["slow"].peak_bytes >= 4 * 2**20 > 2**20 > costs["fast"].peak_bytes
    # By hand: three channels to two, 16 places, a multiplication and an addition each.
    assert (costs["slow"].parameters, costs["slow"].flops) == (8, 3 * 2 * 16 * 2)
    assert slow.training
    # The warm-up of each, and then in turns.
    assert log[:12] == ["slow", "fast"] * 6


def test_a_median_takes_three_repeats() -> None:
    with pytest.raises(InputError, match="at least 3 repeats, got 2"):
        network_costs({"one": nn.Conv2d(3, 2, 1)}, torch.randn(1, 3, 4, 4), repeats=2)


def measured(*words: object) -> None:
    main(["latency", *map(str, words), "--device", "cpu"])


def test_the_command_measures_runs_as_they_are_and_compacted(tiny, tmp_path, capsys) -> None:
    flags = ("--config", tiny, "--sparsity", 0.97, "--rounds", 5, "--epochs", 0)
    go(*flags, "--output_dir", tmp_path / "masked")
    go(*flags, "--compact", "--output_dir", tmp_path / "compact")
    capsys.readouterr()
    out = tmp_path / "latency.json"
    measured(
        tmp_path / "masked", tmp_path / "compact", "--repeats", 3, "--batch_size", 2, "--size", 64, "--output", out
    )
    held = json.loads(out.read_text())
    masked, compact = (held["runs"][str(tmp_path / name)]["networks"] for name in ("masked", "compact"))
    assert list(masked) == ["dense", "masked", "compacted"]
    assert list(compact) == ["dense", "compacted"]
    assert masked["dense"]["flops"] == masked["masked"]["flops"] > masked["compacted"]["flops"]
    model = px_seg.load_model(tmp_path / "compact")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert compact["compacted"]["parameters"] == masked["compacted"]["parameters"] == parameters
    assert (held["setting"]["batch_size"], held["setting"]["device"]) == (2, "cpu")
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'masked'}: 2 images of 64x64 pixels, cpu" in printed
    assert f"{parameters:,}" in printed


def test_runs_of_a_sweep_are_measured_once(tiny, tmp_path) -> None:
    folders = [tmp_path / name for name in ("dense", "magnitude")]
    for folder, sparsity in zip(folders, (0, 0.9), strict=True):
        go("--config", tiny, "--method", folder.name, "--sparsity", sparsity, "--epochs", 0, "--output_dir", folder)
    said: list[str] = []
    measure_missing(folders[:1], said.append)
    first = (folders[0] / "latency.json").read_bytes()
    measure_missing(folders, said.append)
    assert (folders[0] / "latency.json").read_bytes() == first
    assert [re.sub(r"[\d.]+ ms", "T", line) for line in said] == [
        f"measured 1 of 1: {folders[0]}: T, dense T",
        f"measured 1 of 1: {folders[1]}: T, dense T",
    ]
    dense, pruned = (read_measured(folder) for folder in folders)
    assert list(dense["networks"]) == ["dense"]
    assert list(pruned["networks"]) == ["dense", "masked", "compacted"]
    assert pruned["networks"]["dense"]["parameters"] == dense["networks"]["dense"]["parameters"]
    assert dense["setting"] == pruned["setting"]
    # The command does so too, in a setting of one's own.
    measured(folders[0], "--repeats", 3, "--batch_size", 2, "--save")
    assert read_measured(folders[0])["setting"]["batch_size"] == 2


def test_one_run_that_cannot_be_measured_keeps_no_other_from_it(tiny, tmp_path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        go("--config", tiny, "--method", "magnitude", "--sparsity", 0.5, "--epochs", 0, "--output_dir", folder)
    (folders[0] / "model" / "config.json").unlink()
    with pytest.raises(InputError, match=r"1 of 2 runs were not measured; the first: there is no model in .*/a"):
        measure_missing(folders)
    assert not (folders[0] / "latency.json").exists()
    assert read_measured(folders[1])["setting"]["size"] == 32
    # What is written anew is measured anew.
    flags = ("--config", tiny, "--method", "magnitude", "--sparsity", 0.9, "--epochs", 0, "--overwrite")
    go(*flags, "--output_dir", folders[1])
    assert read_measured(folders[1]) is None


def test_many_networks_of_one_class_are_all_compiled(monkeypatch) -> None:
    compiled, graphs = torch.compile, []

    def counted(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda network: compiled(network, backend=counted))
    for width in range(1, 13):
        network = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
        network_costs({"one": network}, torch.randn(1, 3, 4, 4), repeats=3, compiled=True)
    assert len(graphs) == 12


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, ValueError])
def test_what_a_network_refuses_is_one_line(tiny, tmp_path, monkeypatch, error: type[Exception]) -> None:
    go("--config", tiny, "--method", "dense", "--sparsity", 0, "--epochs", 0, "--output_dir", tmp_path / "out")

    def refuse(*_: object) -> None:
        raise error("Input height (96) doesn't match model (224)")

    monkeypatch.setattr(runs, "costs_in_turns", refuse)
    with pytest.raises(InputError, match="on 2 images of 96x96 pixels: give another --size"):
        runs.measure_run(tmp_path / "out", runs.Setting(batch_size=2, size=96))


def test_bad_input_is_one_line(tiny, tmp_path, capsys) -> None:
    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            measured(*words)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "there is no finished run in" in refused(tmp_path)
    out = tmp_path / "out"
    go("--config", tiny, "--sparsity", 0.5, "--method", "magnitude", "--epochs", 0, "--output_dir", out)
    capsys.readouterr()
    assert "1 image of 7x7 pixels: give another --size or a lower --batch_size" in refused(out, "--size", 7)
    assert "give another --size or a lower --batch_size" in refused(out, "--size", 10**7)
    assert "--repeats: takes a whole number from 3 on, got '2'" in refused(out, "--repeats", 2)
    assert "--batch_size: takes a whole number from 1 on, got '0'" in refused(out, "--batch_size", 0)
    assert "--size: takes a whole number from 1 on, got '64,128'" in refused(out, "--size", "64,128")
    for place in (tmp_path, tmp_path / "nowhere" / "x.json"):
        assert refused(out, "--output", place).startswith(f"error: --output {place} cannot be written")
    (out / "model" / "config.json").unlink()
    assert "there is no model in" in refused(out)
    (out / "results.json").write_text("{")
    assert "results.json is damaged" in refused(out)
