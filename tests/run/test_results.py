"""What a run records of itself besides its scores."""

import numpy as np
import pytest
from helpers.runs import classify, go
from safetensors.torch import load_file
from torch import nn

from px_seg import Masks, build_classifier, build_segmenter, predictions
from px_seg.identity import digest
from px_seg.models import load_model
from px_seg.run.results import Whole, _effective


def test_the_loaded_weights_are_reported(small, tmp_path, capsys) -> None:
    build_classifier("resnet20", 3, "none").save_pretrained(tmp_path / "model")
    flags = ("--config", small, "--weights", tmp_path / "model", "--epochs", 0, "--output_dir", tmp_path / "out")
    results = classify(*flags)
    source = str(tmp_path / "model" / "model.safetensors")
    loaded = load_file(source)
    backbone = [loaded[name] for name in sorted(loaded) if name.startswith("encoder.")]
    assert results["weights_loaded"] == {
        **{"source": source, "format": "a run of px_seg", "digest": digest(backbone)},
        **{"matched": 126, "left_out": {"the former task's head": 2}, "zeros": 0},
    }
    assert f"weights: 126 tensors from {source} (a run of px_seg)" in capsys.readouterr().out


@pytest.mark.slow
def test_scales_of_zero_and_other_starts_are_noted(small, tiny, tmp_path) -> None:
    results = classify(
        *("--config", small, "--encoder", "tu-resnet26", "--method", "random", "--epochs", 0),
        *("--output_dir", tmp_path / "timm"),
    )
    assert results["notes"][0].startswith("8 of the backbone's 29 BatchNorms have scale 0")
    flags = ("--config", small, "--method", "random", "--epochs", 0)
    assert classify(*flags, "--output_dir", tmp_path / "first")["notes"] == []
    flags = ("--config", small, "--masks", tmp_path / "first", "--epochs", 0)
    assert classify(*flags, "--output_dir", tmp_path / "same")["notes"] == []
    other = classify(*flags, "--seed", 1, "--output_dir", tmp_path / "other")
    assert other["notes"] == ["the masks were found on weights none, seed 0: this run starts from none, seed 1"]


def test_a_run_writes_what_it_costs_and_what_it_showed(tiny_resnet18, tmp_path) -> None:
    out = tmp_path / "out"
    results = go("--config", tiny_resnet18, "--method", "random", "--sparsity", 0.9, "--output_dir", out)
    model = load_model(out)
    masks = Masks.load(out / "masks.safetensors")
    total = sum(parameter.numel() for parameter in model.parameters())
    assert results["parameters"] == {"kept": total - (masks.total - masks.kept), "total": total}
    assert results["flops"]["total"] > results["flops"]["kept"] > 0.05 * results["flops"]["total"]
    file = out / "model" / "model.safetensors"
    assert results["checkpoint_bytes"]["file"] == file.stat().st_size > 4 * total
    # Nine of ten backbone weights are 0, and zeros pack well.
    assert results["checkpoint_bytes"]["compressed"] < 0.5 * file.stat().st_size

    shown, classes = predictions.load(out / "samples.npz")
    assert len(shown) == 5
    assert classes[0] == "background"
    assert shown[0].image.shape == (32, 32, 3)
    assert shown[0].truth.shape == shown[0].predicted.shape == (32, 32)
    assert shown[0].image.dtype == np.uint8


def test_kept_weights_on_no_path_are_as_good_as_pruned(tiny_resnet18, tmp_path) -> None:
    """Without the second convolution of a residual branch, nothing follows the first."""
    network = build_segmenter("resnet18", 21, "none", 16)
    masks = Masks.ones(network, "encoder")
    masks["encoder.layer4.0.conv2.weight"].zero_()
    masks.save(tmp_path / "masks.safetensors")
    # At 32 pixels the dilated kernels of the last stage reach beyond its 2x2 outputs but for their centres.
    given = ("--masks", tmp_path / "masks.safetensors", "--data.size", 64, "--epochs", 0)
    results = go("--config", tiny_resnet18, *given, "--output_dir", tmp_path / "out")
    pruned, stranded = (masks[f"encoder.layer4.0.conv{number}.weight"].numel() for number in (2, 1))
    assert results["backbone_sparsity"] == pytest.approx(pruned / masks.total)
    assert results["effective_sparsity"] == pytest.approx((pruned + stranded) / masks.total)
    assert results["empty_layers"] == ["encoder.layer4.0.conv2.weight"]


def test_where_paths_are_not_defined_no_effective_sparsity_is_told() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Conv2d(4, 2, 1))
    dense = Whole(backbone=116, weights=116, parameters=122, flops=1, channels=6)
    found = _effective(network.state_dict(), network, dense, None, (3, 8, 8))
    assert found == {"effective_sparsity": None, "live_channels": None, "log10_paths": None}
    del network[1]
    found = _effective(network.state_dict(), network, dense, None, (3, 8, 8))
    assert (found["effective_sparsity"], found["live_channels"]) == (0, 1)
    # 36 output pixels, each with 27 taps by 4 channels by 2 outputs.
    assert 10 ** found["log10_paths"] == pytest.approx(36 * 27 * 4 * 2)


def test_a_run_from_weights_says_what_pruning_left_of_them(small, tmp_path) -> None:
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "model")
    flags = ("--config", small, "--weights", tmp_path / "model", "--epochs", 0, "--method", "magnitude")
    found = classify(*flags, "--sparsity", 0.5, "--output_dir", tmp_path / "pruned")["preservation"]
    assert list(found["cka"]) == ["encoder.1", "encoder.2", "encoder.3", "encoder.4"]
    assert found["images"] == 20
    assert 0 < found["error"] < 1
    for number, others in enumerate((("--sparsity", 0), ("--preservation_images", 0), ("--reinit",))):
        results = classify(*flags, *others, "--output_dir", tmp_path / str(number))
        assert "preservation" not in results


@pytest.mark.parametrize(
    ("method", "batches"),
    [("random", 0), ("magnitude", 0), ("dense", 0), ("snip", 1), ("synflow", 1)],
)
def test_batches_are_those_that_the_method_read(tiny, tmp_path, method: str, batches: int) -> None:
    results = go("--config", tiny, "--method", method, "--epochs", 0, "--output_dir", tmp_path / "out")
    assert results["pruning"] == {"batches": batches, "batch_size": 2 * batches, "per_class": None}


def test_given_masks_read_no_batches(tiny, tmp_path) -> None:
    go("--config", tiny, "--method", "magnitude", "--epochs", 0, "--output_dir", tmp_path / "first")
    flags = ("--masks", tmp_path / "first", "--epochs", 0, "--output_dir", tmp_path / "second")
    assert go("--config", tiny, *flags)["pruning"]["batches"] == 0
