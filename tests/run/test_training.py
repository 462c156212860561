"""Training under masks: precision, accumulation, several processes, and a loss that is no number."""

import json
import math
import warnings

import pytest
import torch
from helpers.runs import classify, go, lines, same_weights, worker
from helpers.stopped import Interrupted
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from px_seg import InputError, Masks
from px_seg.errors import TrainingDiverged
from px_seg.tasks import Segmentation


def test_training_lowers_the_loss(tiny, tmp_path) -> None:
    flags = ("--data.train_images", 32, "--epochs", 6, "--sparsity", 0.5, "--method", "magnitude")
    go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    losses = [line["loss"] for line in lines(tmp_path / "out")]
    assert losses[-1] < 0.7 * losses[0]


def test_mixed_precision_keeps_pruned_weights_at_zero(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    flags = ("--channels_last", "--optimizer.nesterov", "--sparsity", 0.95, "--epochs", 2)
    results = go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    assert math.isfinite(results["miou"])
    assert (results["mixed_precision"], results["gradient_accumulation_steps"]) == ("bf16", 1)
    assert results["backbone_sparsity"] == Masks.load(tmp_path / "out" / "masks.safetensors").sparsity


def test_fp16_is_refused_on_a_cpu(tiny, tmp_path, monkeypatch) -> None:
    """Accelerate would train in float32 and say fp16."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="mixed precision fp16 needs a GPU: on a CPU launch with --mixed_precision bf"):
        go("--config", tiny, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("accumulation", "updates"), [("1", 8), ("2", 4), ("3", 2)])
def test_gradients_accumulate_as_the_launcher_was_told(tiny, tmp_path, monkeypatch, accumulation, updates) -> None:
    """Two epochs of four batches; an epoch's last batches make no update if fewer."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", accumulation)
    made = []
    handle = register_optimizer_step_post_hook(lambda *_: made.append(1))
    flags = ("--method", "random", "--batch_size", 2, "--epochs", 2)
    try:
        results = go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    finally:
        handle.remove()
    assert results["gradient_accumulation_steps"] == int(accumulation)
    assert len(made) == updates
    rates = [line["head_lr"] for line in lines(tmp_path / "out")]
    last = [(epoch * updates / 2 - 1) / updates for epoch in (1, 2)]
    assert rates == pytest.approx([0.1 * (1 - progress) ** 0.9 for progress in last])


class Diverging(Segmentation):
    """The loss turns NaN at the first step of the second epoch."""

    steps = 0

    def loss(self, logits, labels):
        self.steps += 1
        return super().loss(logits, labels) * (math.nan if self.steps == 3 else 1)


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingDiverged, match=r"nan at epoch 2, step 1; the last good checkpoint is .*checkpoint"):
        go("--config", tiny, "--epochs", 3, "--output_dir", out, task=Diverging)
    saved = load_file(out / "checkpoint" / "model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())
    assert Masks.load(out / "masks.safetensors").revived(saved) == {}
    assert [line["epoch"] for line in lines(out)] == [1]
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step 2; the last good checkpoint is .*none"):
        go("--config", tiny, "--optimizer.head_lr", 1e38, "--output_dir", tmp_path / "none")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_compiled_training_is_the_same_and_goes_on(tiny, tmp_path, monkeypatch, precision: str) -> None:
    """The graph is torch's own, run by the same operations; only what a compiler makes of it would round otherwise."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    graphs = []

    def counted(module: torch.fx.GraphModule, _: object) -> object:
        graphs.append(module)
        return module.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiled(module, backend=counted))
    flags = ("--config", tiny, "--epochs", 4, "--ema", 0.9)
    go(*flags, "--output_dir", tmp_path / "plain")
    assert not graphs
    results = go(*flags, "--compile", "--output_dir", tmp_path / "whole")
    assert graphs
    assert results["compile"] is True
    assert same_weights(tmp_path / "plain", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--compile", "--output_dir", tmp_path / "cut", task=Interrupted)
    go(*flags, "--compile", "--resume", "--output_dir", tmp_path / "cut")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")


class Indeterminate(Segmentation):
    """Its loss has an operation for which torch has no deterministic algorithm, and warns of something else."""

    def loss(self, logits, labels):
        warnings.warn("something else", stacklevel=1)
        torch.zeros(2).put_(torch.tensor([1]), torch.tensor([1.0]))
        assert torch.are_deterministic_algorithms_enabled()
        return super().loss(logits, labels)


def test_what_cannot_be_deterministic_is_named(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.warns(UserWarning, match="something else") as told:
        results = go(*flags, "--deterministic", task=Indeterminate)
    assert results["deterministic"] is True
    assert results["notes"][-1] == "without a deterministic implementation here: put_"
    assert not any("deterministic" in str(warning.message) for warning in told)
    assert not torch.are_deterministic_algorithms_enabled()
    results = go(*flags, "--overwrite", "--deterministic")
    assert not any("deterministic" in note for note in results["notes"])


@pytest.mark.slow
def test_two_processes_train_one_model_on_different_images(tmp_path) -> None:
    worker("two_processes", tmp_path, ACCELERATE_USE_CPU="true")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for epoch in ("1", "2"):
        assert len(first["images"][epoch]) == len(second["images"][epoch]) == 4
        assert not set(first["images"][epoch]) & set(second["images"][epoch])
    assert first["images"]["1"] != first["images"]["2"]
    assert first["weights"] == second["weights"]
    assert first["buffers"] == second["buffers"]
    assert first["revived"] == second["revived"] == {}


@pytest.mark.slow
def test_frozen_batchnorm_keeps_its_statistics_and_a_rate_of_zero_its_head(small, tmp_path) -> None:
    flags = ("--config", small, "--optimizer.head_lr", 0, "--optimizer.backbone_lr", 0.001, "--evaluate_first")
    states = {}
    for name, more in {"start": ("--epochs", 0), "frozen": ("--freeze_bn",), "moving": ()}.items():
        results = classify(*flags, *more, "--output_dir", tmp_path / name)
        states[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    statistics = [name for name in states["start"] if "running" in name]
    assert all(torch.equal(states["frozen"][name], states["start"][name]) for name in statistics)
    assert not any(torch.equal(states["moving"][name], states["start"][name]) for name in statistics)
    scales = [name for name in states["start"] if "bn" in name and name.endswith("weight")]
    assert not all(torch.equal(states["frozen"][name], states["start"][name]) for name in scales)
    assert torch.equal(states["frozen"]["head.weight"], states["start"]["head.weight"])

    start = json.loads((tmp_path / "start" / "results.json").read_text())
    assert [line["epoch"] for line in lines(tmp_path / "moving")] == [0, 1]
    assert results["before_training"]["accuracy"] == start["accuracy"] == lines(tmp_path / "moving")[0]["accuracy"]


def test_evaluations_leave_the_training_as_it_was(tiny, tmp_path) -> None:
    """DeepLabV3+ has dropout, whose numbers come from the same stream as a loader's seed."""
    flags = ("--config", tiny, "--method", "random", "--epochs", 3)
    asked = {"first": ("--evaluate_first",), "every": (), "second": ("--evaluate_every", 2)}
    results = {name: go(*flags, *more, "--output_dir", tmp_path / name) for name, more in asked.items()}
    first, *others = (load_file(tmp_path / name / "model" / "model.safetensors") for name in asked)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    assert results["second"]["miou"] == results["every"]["miou"]
    evaluated = {name: [line["epoch"] for line in lines(tmp_path / name) if "miou" in line] for name in asked}
    assert evaluated == {"first": [0, 1, 2, 3], "every": [1, 2, 3], "second": [2, 3]}
    assert [line["epoch"] for line in lines(tmp_path / "second")] == [1, 2, 3]
