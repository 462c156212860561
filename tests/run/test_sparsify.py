"""Every method, ablation and ranking as a run: what it records and what it keeps."""

import json
from dataclasses import dataclass

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.runs import TWO, go, script
from safetensors.torch import load_file

from px_seg import Criterion, InputError, Magnitude, Masks, prune
from px_seg.pruning import CRITERIA
from px_seg.run.prior_training import train_under
from px_seg.run.results import described
from px_seg.tasks import Segmentation

METHODS = [name for name in CRITERIA if name not in ("dense", "imp", "px")]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_images_with_ignored_pixels(tiny, tmp_path, method: str) -> None:
    results = go("--config", tiny, "--method", method, "--sparsity", 0.9, "--epochs", 0, "--output_dir", tmp_path / "o")
    masks = Masks.load(tmp_path / "o" / "masks.safetensors")
    assert (results["method"], masks.provenance.method) == (method, method)
    assert results["backbone_sparsity"] == pytest.approx(0.9, abs=1e-6)
    assert results["ranking"] == ("erk" if method == "random_erk" else "global")
    assert results["settings"]["seed"] == 0


def test_dense_is_a_method_and_so_is_a_sparsity_of_zero(tiny, tmp_path) -> None:
    named = go("--config", tiny, "--method", "dense", "--output_dir", tmp_path / "named")
    counted = go("--config", tiny, "--sparsity", 0, "--output_dir", tmp_path / "counted")
    for results in (named, counted):
        assert (results["method"], results["sparsity"], results["rounds"]) == ("dense", 0, 0)
        assert results["backbone_sparsity"] < 1e-6
    assert named["miou"] == counted["miou"]


@pytest.mark.slow
def test_imp_prunes_what_a_dense_training_leaves_small_and_rewinds(tiny, tmp_path) -> None:
    """One round of it, against a dense run's saved weights; then the ticket trains from the dense run's start."""
    # One epoch: what an evaluation draws between two would move the dropout of the second.
    flags = ("--config", tiny, "--data.train_images", 16, "--epochs", 1)
    go(*flags, "--method", "dense", "--output_dir", tmp_path / "dense")
    trained = smp.from_pretrained(str(tmp_path / "dense" / "model"))
    expected = prune(trained, (), 0.5, Magnitude(), "encoder")
    results = go(*flags, "--method", "imp", "--sparsity", 0.5, "--rounds", 1, "--output_dir", tmp_path / "imp")
    masks = Masks.load(tmp_path / "imp" / "masks.safetensors")
    assert masks == expected
    assert results["settings"] == {"seed": 0, "keep": 0.8, "epochs": None}

    # A criterion that knows the masks beforehand trains the same ticket from the same start.
    @dataclass(frozen=True)
    class Known(Criterion):
        def score(self, model, batches=(), masks=None, scope=None, group=None):
            return {name: mask.float() for name, mask in expected.items()}

    CRITERIA["known"] = Known
    try:
        go(*flags, "--method", "known", "--sparsity", 0.5, "--output_dir", tmp_path / "known")
    finally:
        del CRITERIA["known"]
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("imp", "known"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_an_interrupted_imp_goes_on_from_its_last_round(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("px_seg.run.sparsify.SAVE_EVERY", 0.0)
    flags = ("--config", tiny, "--method", "imp", "--sparsity", 0.5, "--rounds", 3, "--pruning.settings.epochs", 1)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    assert not (tmp_path / "whole" / "masks.partial.safetensors").exists()
    trainings = []

    def stopping(*args, **kwargs):
        trainings.append(1)
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return train_under(*args, **kwargs)

    monkeypatch.setattr("px_seg.run.pipeline.train_under", stopping)
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--output_dir", tmp_path / "broken")
    assert (tmp_path / "broken" / "masks.partial.safetensors").is_file()
    again = go(*flags, "--resume", "--output_dir", tmp_path / "broken")
    assert len(trainings) == 4
    assert again["miou"] == whole["miou"]
    masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in ("whole", "broken")]
    assert masks[0] == masks[1]


@pytest.mark.slow
def test_a_training_that_imp_prunes_by_goes_on_in_the_middle(tiny, tmp_path, capsys) -> None:
    """Three rounds of one epoch of two updates: stopped after the first update of the second round's."""
    flags = ("--config", tiny, "--method", "imp", "--sparsity", 0.5, "--rounds", 3, "--pruning.settings.epochs", 1)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    updates = []

    class Stopping(Segmentation):
        def loss(self, logits, labels):
            updates.append(1)
            if len(updates) == 4:
                raise KeyboardInterrupt
            return super().loss(logits, labels)

    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--checkpoint_every", 1, "--output_dir", out, task=Stopping)
    assert (out / "checkpoint.pruning").is_dir()
    assert (out / "masks.partial.safetensors").is_file()
    again = go(*flags, "--resume", "--output_dir", out, task=Stopping)
    # The rest of the second round, the third, and the fine-tuning.
    assert len(updates) == 4 + 1 + 2 + 2
    assert again["miou"] == whole["miou"]
    assert Masks.load(out / "masks.safetensors") == Masks.load(tmp_path / "whole" / "masks.safetensors")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.slow
def test_imp_trains_on_two_processes(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "imp", "--sparsity", 0.5, "--rounds", 2, "--data.train_images", 16)
    done = script(*flags, "--output_dir", tmp_path / "out", launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["processes"], results["rounds"]) == (2, 2)
    assert results["backbone_sparsity"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.slow
def test_the_ablations_of_the_paper(tiny_resnet18, tmp_path) -> None:
    flags = ("--config", tiny_resnet18, "--method", "snip", "--sparsity", 0.9, "--epochs", 0)
    plain = go(*flags, "--output_dir", tmp_path / "plain")
    both = go(*flags, "--shuffle_masks", "--reinit", "--output_dir", tmp_path / "both")
    assert [(r["shuffle_masks"], r["reinit"]) for r in (plain, both)] == [(False, False), (True, True)]
    masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in ("plain", "both")]
    assert masks[0] != masks[1]
    assert masks[0].densities() == masks[1].densities()
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "both"))
    for name in masks[0]:
        assert not masks[1].revived(second)
        live = masks[0][name] & masks[1][name]
        assert not live.any() or not torch.equal(first[name][live], second[name][live])
        # Drawn from the same distribution.
        spread = [float(weights[name][mask[name]].std()) for weights, mask in zip((first, second), masks, strict=True)]
        assert live.sum() < 200 or spread[1] / spread[0] < 1.5


@pytest.mark.slow
def test_densities_of_another_run(tiny, tmp_path, capsys) -> None:
    """--density_from: as many weights in every layer as there, others in it; and what contradicts it is refused."""
    go("--config", tiny, "--method", "magnitude", "--sparsity", 0.9, "--epochs", 0, "--output_dir", tmp_path / "from")
    words = ("--config", tiny, "--method", "random", "--epochs", 0, "--density_from", tmp_path / "from")
    results = go(*words, "--sparsity", 0.9, "--output_dir", tmp_path / "to")
    given, found = (Masks.load(tmp_path / name / "masks.safetensors") for name in ("from", "to"))
    assert given.densities() == found.densities()
    assert given != found
    assert results["density_from"] == str(tmp_path / "from")
    assert results["ranking"].startswith("given:")
    for more, message in (
        (("--sparsity", 0.8), "ask for a sparsity of 0.9"),
        (("--sparsity", 0.9, "--ranking", "erk"), "leave the ranking erk out"),
        (("--sparsity", 0.9, "--masks", tmp_path / "from"), "leave --density_from out"),
        (("--sparsity", 0.9, "--keep_dense", "[encoder.model.conv1]"), "which is not in scope"),
    ):
        with pytest.raises(InputError, match=message):
            go(*words, *more, "--output_dir", tmp_path / "refused")
    with pytest.raises(InputError, match="there is no mask file nowhere"):
        go(*words[:-1], "nowhere", "--sparsity", 0.9, "--output_dir", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_pattern_has_its_own_sparsity_and_is_kept_through_training(tiny_resnet18, tmp_path, capsys) -> None:
    flags = ("--config", tiny_resnet18, "--method", "magnitude", "--pattern", "2:4", "--keep_dense", "[encoder.conv1]")
    results = go(*flags, "--output_dir", tmp_path / "o")
    assert (results["sparsity"], results["pattern"]) == (0.5, "2:4")
    masks, weights = Masks.load(tmp_path / "o" / "masks.safetensors"), load_file(tmp_path / "o/model/model.safetensors")
    assert "encoder.conv1.weight" not in masks
    assert weights["encoder.conv1.weight"].all()
    for name in masks:
        assert int((weights[name] != 0).unflatten(1, (-1, 4)).sum(2).max()) == 2
    assert {f"{name}.weight" for name in results["sparse_layers"]} == set(masks)
    assert "2:4 in 19 layers" in capsys.readouterr().out
    again = go("--config", tmp_path / "o" / "config.yaml", "--output_dir", tmp_path / "again")
    assert again["miou"] == results["miou"]


@pytest.mark.slow
def test_filters_stay_whole_through_training_and_as_given_masks(tiny_resnet18, tmp_path) -> None:
    flags = ("--config", tiny_resnet18, "--method", "magnitude", "--sparsity", 0.6, "--granularity", "filter")
    results = go(*flags, "--output_dir", tmp_path / "o")
    assert (results["granularity"], results["sparsity"]) == ("filter", 0.6)
    assert 0.6 <= results["backbone_sparsity"] < 0.601
    weights = load_file(tmp_path / "o/model/model.safetensors")
    for name, mask in Masks.load(tmp_path / "o" / "masks.safetensors").items():
        filters = mask.flatten(1)
        assert torch.equal(filters.any(1), filters.all(1))
        assert not weights[name][~filters.any(1)].any()
    again = go("--config", tiny_resnet18, "--masks", tmp_path / "o", "--epochs", 0, "--output_dir", tmp_path / "again")
    assert (again["granularity"], again["backbone_sparsity"]) == ("filter", results["backbone_sparsity"])
    with pytest.raises(InputError, match="shuffled masks would not keep whole filters"):
        go("--config", tiny_resnet18, "--masks", tmp_path / "o", "--shuffle_masks", "--output_dir", tmp_path / "no")
    assert "by filters" in described(results)


@pytest.mark.slow
def test_layers_that_a_pattern_leaves_out_are_listed(tiny_resnet18, tmp_path) -> None:
    flags = ("--config", tiny_resnet18, "--method", "magnitude", "--pattern", "at-most 2:4", "--sparsity", 0.9)
    results = go(*flags, "--epochs", 0, "--output_dir", tmp_path / "o")
    assert (results["sparsity"], results["pattern"]) == (0.9, "at-most 2:4")
    (note,) = [note for note in results["notes"] if "at-most 2:4" in note]
    exempt = note.partition("pattern at-most 2:4: ")[2].split(", ")
    assert note.startswith("12 of 20 layers have fewer than 256 input or output channels")
    for name, mask in Masks.load(tmp_path / "o" / "masks.safetensors").items():
        groups = mask.unflatten(1, (-1, 4)) if mask.shape[1] % 4 == 0 else None
        if name.removesuffix(".weight") in exempt:
            assert min(mask.shape[:2]) < 256
        else:
            assert groups is not None
            assert groups.sum(2).max() == 2
