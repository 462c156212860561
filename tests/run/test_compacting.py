"""Runs whose pruned network is made smaller before it is trained."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.runs import TWO, go, lines, script
from helpers.stopped import Interrupted
from safetensors.torch import load_file

import px_seg
from px_seg import InputError, Masks


def flags(tiny, *more: object) -> tuple[object, ...]:
    return ("--config", tiny, "--sparsity", 0.97, "--rounds", 5, *more)


def test_it_learns_what_the_masked_network_learns(tiny, tmp_path) -> None:
    more = flags(tiny, "--epochs", 3)
    masked = go(*more, "--output_dir", tmp_path / "masked")
    compact = go(*more, "--compact", "--output_dir", tmp_path / "compact")
    assert Masks.load(tmp_path / "masked/masks.safetensors") == Masks.load(tmp_path / "compact/masks.safetensors")
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("masked", "compact")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1][-1] < 0.95 * losses[1][0]
    for key in ("backbone_weights", "model_weights", "parameters", "flops"):
        assert compact[key]["total"] == masked[key]["total"]
        assert compact[key]["kept"] <= masked[key]["kept"]
    assert compact["effective_sparsity"] == pytest.approx(masked["effective_sparsity"], abs=1e-3)
    sizes = compact["compacted"]
    assert sizes["left"] == []
    assert sizes["parameters"] < 0.7 * masked["parameters"]["total"]
    assert sizes["flops"] < 0.8 * masked["flops"]["total"]
    assert compact["checkpoint_bytes"]["file"] < 0.7 * masked["checkpoint_bytes"]["file"]


def test_what_it_saves_is_the_smaller_network(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    go(*flags(tiny, "--compact", "--output_dir", out))
    model = px_seg.load_model(out)
    masks, state = Masks.load(out / "masks.compact.safetensors"), load_file(out / "model" / "compact.safetensors")
    assert not masks.revived(state)
    assert masks.revived({name: torch.ones_like(value) for name, value in state.items()})
    assert {name: mask.shape for name, mask in masks.items()} == {n: model.get_parameter(n).shape for n in masks}
    assert "px_seg.load_model" in (out / "model" / "README.md").read_text()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 64)).shape == (1, 7, 32, 64)
    with pytest.raises(Exception, match=r"model\.safetensors"):
        smp.from_pretrained(str(out / "model"))
    with pytest.raises(InputError, match="holds a compacted network, which fits no other"):
        go(*flags(tiny, "--weights", out, "--output_dir", tmp_path / "next"))
    small = out / "masks.compact.safetensors"
    with pytest.raises(InputError, match=f"those of a compacted network: give {out}, its run's folder"):
        go("--config", tiny, "--masks", small, "--output_dir", tmp_path / "next")


def test_an_interrupted_run_goes_on_with_the_network_that_it_had(tiny, tmp_path) -> None:
    more = flags(tiny, "--compact", "--epochs", 4)
    whole = go(*more, "--output_dir", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*more, "--output_dir", tmp_path / "cut", task=Interrupted)
    resumed = go(*more, "--resume", "--output_dir", tmp_path / "cut")
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    for key in ("miou", "compacted", "flops"):
        assert resumed[key] == whole[key]


def test_a_frozen_norm_makes_the_constants_that_it_makes_in_eval_mode(tiny, tmp_path) -> None:
    more = flags(tiny, "--freeze_bn", "--method", "magnitude", "--rounds", 1)
    masked = go(*more, "--output_dir", tmp_path / "masked")
    compact = go(*more, "--compact", "--output_dir", tmp_path / "compact")
    losses = [lines(tmp_path / name)[0]["loss"] for name in ("masked", "compact")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert compact["compacted"]["parameters"] < masked["parameters"]["total"]


def test_a_dense_network_is_not_compacted(tiny, tmp_path) -> None:
    results = go("--config", tiny, "--sparsity", 0, "--compact", "--epochs", 0, "--output_dir", tmp_path / "out")
    assert results["compact"] is False
    assert "compacted" not in results


def test_two_processes_train_one_smaller_network(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    done = script(*flags(tiny, "--compact", "--output_dir", out), launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["processes"] == 2
    assert results["compacted"]["parameters"] < 0.7 * results["parameters"]["total"]
