"""Optimizers, schedules, clipping, averages and frozen parts, against their formulas and what they must leave alone."""

import math

import pytest
import torch
from helpers.runs import classify, go, lines, same_weights
from helpers.stopped import Interrupted
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from px_seg import InputError, Masks
from px_seg.config import OptimizerConfig, ScheduleConfig
from px_seg.run.folder import RunFolder
from px_seg.run.optimisation import make_optimizer, make_schedule
from px_seg.tasks import Segmentation


def rates(updates: int, **settings: object) -> list[float]:
    """The rates of the updates of a training, for a rate of 1."""
    network = nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    optimizer = make_optimizer(network, "backbone", OptimizerConfig(1.0, 1.0, 0.0, 0.0))
    config = ScheduleConfig(**{"name": "poly", "milestones": [0.5], "gamma": 0.1, "power": 0.9, **settings})
    schedule = make_schedule(optimizer, config, updates)
    found = []
    for _ in range(updates):
        found.append(schedule.get_last_lr()[1])
        optimizer.step()
        schedule.step()
    return found


SHAPES = {
    "poly": lambda progress: (1 - progress) ** 0.9,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "multistep": lambda progress: 1.0 if progress < 0.5 else 0.1,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_schedule_follows_its_formula_and_rises_before_it(name: str) -> None:
    assert rates(20, name=name) == pytest.approx([SHAPES[name](place / 20) for place in range(20)])
    rising = [(place + 1) / 5 for place in range(4)]
    falling = [SHAPES[name](place / 16) for place in range(16)]
    assert rates(20, name=name, warmup=0.2) == pytest.approx([*rising, *falling])


def test_a_training_of_one_update_has_no_room_to_rise() -> None:
    assert rates(1, warmup=0.5) == [1.0]
    assert rates(2, warmup=0.9) == pytest.approx([0.5, 1.0])


def test_adamw_keeps_pruned_weights_at_zero_and_decays_apart_from_the_gradient(tiny, tmp_path) -> None:
    flags = ("--optimizer.name", "adamw", "--optimizer.weight_decay", 0.05, "--optimizer.beta2", 0.99, "--epochs", 2)
    results = go("--config", tiny, *flags, "--optimizer.clip", 1, "--output_dir", tmp_path / "out")
    masks = Masks.load(tmp_path / "out" / "masks.safetensors")
    assert results["optimizer"] == "adamw"
    assert results["backbone_sparsity"] == masks.sparsity
    assert masks.revived(load_file(tmp_path / "out" / "model" / "model.safetensors")) == {}
    network = nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    optimizer = make_optimizer(network, "backbone", OptimizerConfig(0.1, 0.2, 0.8, 0.5, name="adamw", beta2=0.9))
    assert [(group["lr"], group["betas"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.1, (0.8, 0.9), 0.5),
        (0.2, (0.8, 0.9), 0.5),
    ]
    assert isinstance(optimizer, torch.optim.AdamW)


def norms_of_updates(*flags: object) -> list[float]:
    """Of the gradient of all weights together, at every update of a run."""
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    handle = register_optimizer_step_pre_hook(note)
    try:
        go(*flags)
    finally:
        handle.remove()
    return norms


def test_a_large_gradient_is_scaled_to_the_norm_asked_for(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--sparsity", 0.5)
    free = norms_of_updates(*flags, "--output_dir", tmp_path / "free")
    clip = free[0] / 2
    held = norms_of_updates(*flags, "--optimizer.clip", clip, "--output_dir", tmp_path / "held")
    assert held[0] == pytest.approx(clip, rel=1e-4)
    assert max(held) <= clip * (1 + 1e-4)
    loose = norms_of_updates(*flags, "--optimizer.clip", 2 * max(free), "--output_dir", tmp_path / "loose")
    assert loose == pytest.approx(free)
    # Two batches an update are clipped together, not one by one.
    both = norms_of_updates(
        *flags,
        "--batch_size",
        2,
        "--gradient_accumulation",
        2,
        "--optimizer.clip",
        clip,
        "--output_dir",
        tmp_path / "b",
    )
    assert len(both) == len(free)
    assert both[0] == pytest.approx(clip, rel=1e-4)


def test_accumulation_by_flag_is_that_of_the_launcher(tiny, tmp_path, monkeypatch) -> None:
    flags = ("--config", tiny, "--method", "random", "--batch_size", 2)
    by_flag = go(*flags, "--gradient_accumulation", 2, "--output_dir", tmp_path / "flag")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    go(*flags, "--output_dir", tmp_path / "launcher")
    assert by_flag["gradient_accumulation_steps"] == 2
    assert same_weights(tmp_path / "flag", tmp_path / "launcher")


class TestAverage:
    def test_it_is_the_formulas_and_is_what_is_evaluated_and_saved(self, tiny, tmp_path) -> None:
        seen: list[list[Tensor]] = []

        def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
            seen.append([p.detach().clone() for group in optimizer.param_groups for p in group["params"]])

        flags = ("--config", tiny, "--method", "dense", "--sparsity", 0, "--epochs", 2)
        handle = register_optimizer_step_post_hook(note)
        try:
            results = go(*flags, "--ema", 0.75, "--output_dir", tmp_path / "ema", task=Scored)
        finally:
            handle.remove()
        expected = seen[0]
        for now in seen[1:]:
            expected = [0.75 * average + 0.25 * weight for average, weight in zip(expected, now, strict=True)]
        saved = load_file(tmp_path / "ema" / "model" / "model.safetensors")
        # The optimizer has no names.
        parameters = [tensor for name, tensor in saved.items() if "running" not in name and "num_b" not in name]
        assert len(parameters) == len(expected)
        for average in expected:
            assert any(average.shape == p.shape and torch.allclose(average, p, atol=1e-6) for p in parameters)
        # After each epoch the average is evaluated, and then the weights.
        *_, average, weights = Scored.networks
        assert (results["miou"], results["unaveraged"]["miou"]) == (SCORES[3], SCORES[4])
        assert not set(results["unaveraged"]) & set(Segmentation.details)
        assert all(torch.equal(saved[name], value) for name, value in average.items())
        go(*flags, "--output_dir", tmp_path / "plain")
        plain = load_file(tmp_path / "plain" / "model" / "model.safetensors")
        assert all(torch.equal(plain[name], value) for name, value in weights.items())
        # Running statistics are averaged as well.
        name = next(name for name in saved if name.endswith("running_var"))
        assert not torch.equal(saved[name], plain[name])

    def test_pruned_weights_are_zero_in_it_and_it_goes_on_where_it_was(self, tiny, tmp_path) -> None:
        flags = ("--config", tiny, "--epochs", 4, "--ema", 0.9, "--optimizer.name", "adamw")
        whole = go(*flags, "--output_dir", tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            go(*flags, "--output_dir", tmp_path / "cut", task=Interrupted)
        assert (tmp_path / "cut" / "checkpoint" / "average.safetensors").is_file()
        resumed = go(*flags, "--resume", "--output_dir", tmp_path / "cut")
        assert same_weights(tmp_path / "whole", tmp_path / "cut")
        assert resumed["unaveraged"] == whole["unaveraged"]
        masks = Masks.load(tmp_path / "whole" / "masks.safetensors")
        assert whole["backbone_sparsity"] == masks.sparsity > 0.5

    def test_before_the_first_update_it_is_the_pruned_network(self, tiny, tmp_path) -> None:
        flags = ("--config", tiny, "--method", "magnitude", "--sparsity", 0.9)
        plain = go(*flags, "--epochs", 0, "--output_dir", tmp_path / "plain")
        results = go(*flags, "--epochs", 0, "--ema", 0.9, "--output_dir", tmp_path / "none")
        assert same_weights(tmp_path / "plain", tmp_path / "none")
        first = go(*flags, "--evaluate_first", "--ema", 0.9, "--output_dir", tmp_path / "first")["before_training"]
        assert results["class_iou"] == first["class_iou"] == plain["class_iou"]


def test_a_frozen_backbone_stays_as_it_was(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--epochs")
    go(*flags, 0, "--output_dir", tmp_path / "start")
    results = go(*flags, 2, "--freeze_encoder", "--output_dir", tmp_path / "out")
    start, end = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("start", "out"))
    inside = [name for name in start if name.startswith("encoder.")]
    assert len(inside) > 50
    assert all(torch.equal(start[name], end[name]) for name in inside)
    trained = [name for name in start if name not in inside and name.endswith("weight")]
    assert all(not torch.equal(start[name], end[name]) for name in trained)
    assert results["freeze_encoder"] is True


SCORES = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5}


class Scored(Segmentation):
    """Its main score is the one above, whatever the network; the networks that were evaluated are noted."""

    def evaluate(self, model, loader, device):
        if not hasattr(self, "seen"):
            self.seen = Scored.networks = []
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return super().evaluate(model, loader, device) | {"miou": SCORES[len(self.seen)]}


class TestBest:
    def test_the_first_best_epoch_is_kept_beside_the_last(self, tiny, tmp_path, capsys) -> None:
        out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 4)
        results = go(*flags, "--output_dir", out, task=Scored)
        assert results["miou"] == 0.5
        accuracy = lines(out)[1]["pixel_accuracy"]
        assert results["best"] == {"epoch": 2, "by": "miou", "folder": "best", "miou": 0.5, "pixel_accuracy": accuracy}
        held = load_file(out / "best" / "model.safetensors")
        assert all(torch.equal(held[name], value) for name, value in Scored.networks[1].items())
        assert (
            "best epoch, 2           50.00%  (on the same images, which chose it; in best/)" in capsys.readouterr().out
        )
        assert Masks.load(out / "masks.safetensors").revived(held) == {}
        again = go(*flags, "--keep_best", "false", "--output_dir", tmp_path / "plain", task=Scored)
        assert same_weights(out, tmp_path / "plain")
        assert "best" not in again
        assert not (tmp_path / "plain" / "best").exists()

    def test_one_that_is_no_longer_looked_after_goes(self, tiny, tmp_path) -> None:
        class Cut(Interrupted, Scored):
            pass

        out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--epochs", 4)
        with pytest.raises(KeyboardInterrupt):
            go(*flags, "--output_dir", out, task=Cut)
        assert RunFolder(out).epoch_kept() == 2
        assert "best" not in go(*flags, "--resume", "--keep_best", "false", "--output_dir", out)
        assert not (out / "best").exists()

    def test_where_it_is_the_last_epoch_the_model_is_it(self, tiny, tmp_path) -> None:
        out = tmp_path / "out"
        results = go("--config", tiny, "--method", "random", "--epochs", 2, "--output_dir", out, task=Scored)
        assert (results["best"]["epoch"], results["best"]["folder"]) == (2, "model")
        assert not (out / "best").exists()

    def test_without_training_there_is_none(self, tiny, tmp_path) -> None:
        assert "best" not in go("--config", tiny, "--epochs", 0, "--output_dir", tmp_path / "out")


def test_bad_settings_are_refused_in_words(tiny, small, tmp_path) -> None:
    for flags, message in (
        (("--optimizer.name", "adam"), "there is no optimizer 'adam': choose one of sgd, adamw"),
        (("--optimizer.name", "adamw", "--optimizer.nesterov"), "optimizer.nesterov is for sgd, not adamw"),
        (("--optimizer.name", "adamw", "--optimizer.beta2", 1), "optimizer: Invalid beta parameter"),
        (("--optimizer.clip", 0), "optimizer.clip must be above 0, got 0"),
        (("--schedule.name", "linear"), "there is no schedule 'linear': choose one of multistep, poly, cosine"),
        (("--schedule.warmup", 1), "schedule.warmup must be a share of the training, from 0 to below 1: got 1"),
        (("--ema", 1), "ema must be above 0 and below 1, got 1"),
        (("--gradient_accumulation", 0), "gradient_accumulation must be at least 1, got 0"),
        (("--gradient_accumulation", 9), "do not fill one batch of 4 .* 9 of which make an update"),
    ):
        with pytest.raises(InputError, match=message):
            go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    with pytest.raises(InputError, match="imp trains the backbone, which --freeze_encoder keeps as it is"):
        classify("--config", small, "--method", "imp", "--freeze_encoder", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
