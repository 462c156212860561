"""Operations counted, against the sums written out; and the images that a run keeps."""

import numpy as np
import pytest
import torch
from helpers.runs import go
from torch import nn

from px_seg import InputError, Masks, predictions, prune
from px_seg.analysis.flops import count_flops
from px_seg.models import build_segmenter, load_model
from px_seg.predictions import Prediction
from px_seg.pruning import Random


def test_operations_are_two_a_weight_and_place() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    first, second, last = 2 * (8 * 3 * 9) * 6 * 4, 2 * (8 * 2 * 9) * 6 * 4, 2 * 8 * 5
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    assert count_flops(net, weights, (3, 12, 8)) == (first + second + last,) * 2
    weights["0.weight"][:4] = 0
    weights["6.weight"][0] = 0
    kept = first // 2 + second + last * 4 // 5
    assert count_flops(net, weights, (3, 12, 8)) == (kept, first + second + last)
    # Only the weights that were given count, and the network is as it was.
    assert net.training
    assert (net[0].weight != 0).all()


def test_of_a_segmenter_a_pruned_layer_costs_its_density() -> None:
    torch.manual_seed(0)
    model = build_segmenter("resnet18", 3, "none", 16)
    masks = prune(model, (), 0.9, Random(), "encoder.layer4.1.conv1")
    weights = {name: value * masks.get(name, torch.ones(())) for name, value in model.state_dict().items()}
    kept, total = count_flops(model, weights, (3, 64, 64))
    # 512 x 512 weights of 3 x 3 on a map of 4 x 4 at output stride 16.
    assert total - kept == pytest.approx(0.9 * 2 * 512 * 512 * 9 * 4 * 4, rel=1e-5)


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


def test_samples_come_back_and_damaged_ones_are_named(tmp_path) -> None:
    path = tmp_path / "samples.npz"
    whole = Prediction.of(torch.zeros(2, 3, 3, dtype=torch.uint8), torch.tensor([[1, 2, 255]] * 2), torch.ones(2, 3))
    single = Prediction.of(torch.zeros(4, 4, 3, dtype=torch.uint8), 7, 8)
    predictions.save(path, [whole, single], ["a", "é"])
    (first, second), classes = predictions.load(path)
    assert classes == ["a", "é"]
    assert first.truth.tolist() == [[1, 2, 255]] * 2
    assert (int(second.truth), int(second.predicted)) == (7, 8)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="missing or damaged"):
        predictions.load(path)
