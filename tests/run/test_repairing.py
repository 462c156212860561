"""Runs whose pruned network is repaired before it is judged or trained."""

import json
from pathlib import Path

import pytest
import torch
from helpers.runs import classify, lines, worker
from safetensors.torch import load_file

from px_seg import InputError, Masks, build_classifier
from px_seg.commands import main
from px_seg.comparison.preservation_rows import read_rows
from px_seg.tasks import Classification


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(0)
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "start" / "model")
    return tmp_path / "start" / "model"


def flags(small: Path, start: Path, *more: object) -> tuple[object, ...]:
    return ("--config", small, "--weights", start, "--method", "magnitude", "--sparsity", 0.8, *more)


def test_a_reconstructed_network_is_closer_to_the_dense_one_and_keeps_its_masks(small, start, tmp_path) -> None:
    out = tmp_path / "out"
    results = classify(*flags(small, start, "--epochs", 0, "--recalibrate", "reconstruct", "--output_dir", out))
    before, after = results["preservation"], results["preservation_repaired"]
    assert after["error"] < 0.9 * before["error"]
    assert results["seconds"]["repair"] > 0
    assert (results["recalibrate"], results["recalibrate_images"]) == ("reconstruct", 15)
    plain = classify(*flags(small, start, "--epochs", 0, "--output_dir", tmp_path / "plain"))
    assert plain["preservation"] == before
    assert "preservation_repaired" not in plain
    assert "repair" not in plain["seconds"]
    assert "recalibrate_images" not in plain
    # What is saved is what was compared: the same masks, other weights.
    assert Masks.load(out / "masks.safetensors") == Masks.load(tmp_path / "plain" / "masks.safetensors")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "plain"))
    name = "encoder.layer1.0.conv1.weight"
    assert torch.equal(one[name] != 0, other[name] != 0)
    assert not torch.equal(one[name], other[name])


def test_a_comparison_without_training_repairs_as_a_run_does(small, start, tmp_path) -> None:
    out = tmp_path / "out"
    more = ("--epochs", 0, "--recalibrate", "reconstruct", "--preservation_images", 10)
    run = classify(*flags(small, start, *more, "--output_dir", tmp_path / "run"))["preservation_repaired"]
    words = ("preservation", "--task", "cls", "--config", small, "--weights", start, "--methods", "magnitude")
    words += ("--sparsities", 0.8, "--images", 10, "--recalibrate", "reconstruct", "--output_dir", out)
    main([str(word) for word in words])
    (row,) = read_rows(out)
    assert (row.cka, row.agreement, row.error) == (run["cka"], run["agreement"], run["error"])


def test_a_network_may_be_repaired_after_every_round(small, start, tmp_path) -> None:
    own = ("--epochs", 0, "--recalibrate", "reconstruct", "--preservation_images", 10)
    more, names = ("--rounds", 3, "--recalibrate_rounds"), ("once", "rounds")
    runs = [
        classify(*flags(small, start, *own, *extra, "--output_dir", tmp_path / name))
        for name, extra in zip(names, (more[:2], more), strict=True)
    ]
    assert [results["recalibrate_rounds"] for results in runs] == [False, True]
    masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in names]
    assert masks[0] != masks[1]
    assert [made.provenance.repaired for made in masks] == [None, "reconstruct"]
    # The same in a comparison without training.
    method = "magnitude+recalibrate=reconstruct+recalibrate_rounds=true+rounds=3"
    words = ("preservation", "--task", "cls", "--config", small, "--weights", start, "--methods", method)
    main([str(word) for word in (*words, "--sparsities", 0.8, "--images", 10, "--output_dir", tmp_path / "out")])
    (row,) = read_rows(tmp_path / "out")
    assert row.cka == runs[1]["preservation_repaired"]["cka"]
    given = ("--config", small, "--weights", start, "--masks", tmp_path / "rounds", *own, "--recalibrate_rounds")
    with pytest.raises(InputError, match=r"masks come from .*, without any rounds: leave --recalibrate_rounds out"):
        classify(*given, "--output_dir", tmp_path / "given")
    # A dense run has no rounds.
    dense = ("--config", small, "--weights", start, "--sparsity", 0, "--epochs", 0, *own[2:], *more)
    assert classify(*dense, "--output_dir", tmp_path / "dense")["recalibrate_rounds"] is False


def test_a_resumed_training_is_not_repaired_again(small, start, tmp_path, monkeypatch) -> None:
    own = flags(small, start, "--epochs", 2, "--recalibrate", "reconstruct", "--preservation_images", 10)
    whole = classify(*own, "--output_dir", tmp_path / "whole")
    out = ("--output_dir", tmp_path / "cut")
    with monkeypatch.context() as stopped:
        stopped.setattr(Classification, "draw", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            classify(*own, *out)
    monkeypatch.setattr("px_seg.run.repairing.recalibrate", _interrupt)
    saved = json.loads((tmp_path / "cut" / "checkpoint" / "progress.json").read_text())
    resumed = classify(*own, *out, "--resume")
    for key in ("preservation", "preservation_repaired", "recalibrate_images", "accuracy"):
        assert resumed[key] == whole[key]
    assert resumed["seconds"]["repair"] == saved["known"]["start"]["seconds"] > 0


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_run_trains_the_repaired_network(small, start, tmp_path) -> None:
    losses = {}
    for repair in ("none", "statistics", "reconstruct"):
        out = tmp_path / repair
        results = classify(*flags(small, start, "--epochs", 1, "--recalibrate", repair, "--output_dir", out))
        assert results["empty_layers"] == []
        losses[repair] = lines(out)[-1]["loss"]
    assert losses["reconstruct"] != losses["none"]
    # BatchNorms that train normalise by the batch, whatever their running statistics are.
    assert losses["statistics"] == losses["none"]
    frozen = [
        classify(*flags(small, start, "--epochs", 1, "--freeze_bn", *more, "--output_dir", tmp_path / f"frozen{at}"))
        for at, more in enumerate(((), ("--recalibrate", "statistics")))
    ]
    assert frozen[0]["preservation"] == frozen[1]["preservation"]
    assert lines(tmp_path / "frozen0")[-1]["loss"] != lines(tmp_path / "frozen1")[-1]["loss"]
    # Nothing is repaired where nothing is pruned, and such a run is the plain dense one.
    dense = ("--config", small, "--weights", start, "--sparsity", 0, "--epochs", 0)
    assert classify(*dense, "--recalibrate", "statistics", "--output_dir", tmp_path / "dense")["recalibrate"] == "none"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--recalibrate", "magic"),
            "there is no recalibration 'magic': choose one of none, statistics, variance, recon",
        ),
        (("--recalibrate", "magic", "--sparsity", 0), "there is no recalibration 'magic'"),
        (("--recalibrate", "variance", "--pruning.batch_size", 1), "takes statistics of whole batches, and pruning.b"),
        (("--recalibrate", "statistics", "--reinit"), "leave --reinit or --recalibrate out"),
        (("--recalibrate_rounds",), "recalibrate says, which is none: give --recalibrate reconstruct as well"),
        (
            ("--rounds", 1, "--recalibrate", "statistics", "--recalibrate_rounds"),
            "magnitude prunes in one round, .*: give --rounds 5",
        ),
        (
            ("--method", "imp", "--recalibrate", "statistics", "--recalibrate_rounds"),
            "imp trains between its rounds: leave --recalibrate_rounds out",
        ),
        (("--recalibrate", "statistics", "--pruning.batches", 1000), "pruning needs 1000 batches"),
        (("--recalibrate", "variance", "--encoder", "vgg11", "--weights", "none"), "no BatchNorm whose statistics"),
        (
            ("--recalibrate", "reconstruct", "--encoder", "tu-test_nfnet", "--weights", "none"),
            "is not read once by its own layer and nowhere else",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(small, start, tmp_path, more, message) -> None:
    with pytest.raises(InputError, match=message):
        classify(*flags(small, start, *more, "--output_dir", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_comparison_refuses_layers_that_cannot_be_repaired(small, tmp_path, capsys) -> None:
    words = ("preservation", "--task", "cls", "--config", small, "--weights", "none", "--methods", "magnitude")
    words += ("--encoder", "tu-test_nfnet", "--sparsities", 0.8, "--images", 10, "--recalibrate", "reconstruct")
    with pytest.raises(SystemExit):
        main([str(word) for word in (*words, "--output_dir", tmp_path / "out")])
    assert "error: encoder.model.stem_conv1.weight is not read once by its own layer" in capsys.readouterr().err
    assert not (tmp_path / "out" / "preservation.csv").exists()


@pytest.mark.slow
def test_all_processes_have_what_the_main_one_repaired(tmp_path) -> None:
    worker("repaired_pair", tmp_path, ACCELERATE_USE_CPU="true")
    for name in ("", "between"):
        first, second = (load_file(tmp_path / f"{name}{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(value, second[key]) for key, value in first.items())
