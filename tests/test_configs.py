"""The presets under configs/."""

from pathlib import Path

import pytest
import yaml
from helpers.runs import CONFIGS, parsed

from px_seg.tasks import Classification


@pytest.mark.parametrize("path", sorted((CONFIGS / "cls").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_whole_configuration(path: Path) -> None:
    config = parsed("--config", path, task=Classification)
    Classification.check(config, synchronised=False)
    keys = yaml.safe_load(path.read_text()).keys()
    assert keys >= {"sparsity", "method", "encoder", "weights", "epochs", "batch_size", "data", "pruning", "loss"}


@pytest.mark.parametrize(
    ("name", "network", "epochs", "batch", "batches", "rate", "decay", "nesterov", "after"),
    [
        ("cifar10", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("cifar100", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("tiny_imagenet", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("cifar10_resnet20", "resnet20", 160, 128, (2, 128), 0.1, 1e-4, False, [80, 120]),
        ("cifar100_vgg16_bn", "vgg16_bn", 160, 256, (4, 256), 0.1, 5e-4, True, [60, 120]),
        ("tiny_imagenet_resnet18", "resnet18_3x3", 200, 256, (8, 256), 0.2, 1e-4, False, [100, 150]),
        ("imagenet", "resnet50", 90, 448, (23, 448), 0.1, 1e-4, False, [30, 60, 80]),
        ("ntk_spectrum", "resnet20", 160, 128, (2, 128), 0.1, 1e-4, False, [80, 120]),
        ("../transfer/imagenet", "resnet50", 90, 64, (2, 64), 5e-5, 1e-4, False, [30, 60, 80]),
    ],
)
def test_the_papers_numbers_are_in_the_files(
    name, network, epochs, batch, batches, rate, decay, nesterov, after
) -> None:
    """METHOD's table, written out again."""
    content = yaml.safe_load((CONFIGS / "cls" / f"{name}.yaml").read_text())
    assert (content["encoder"], content["epochs"], content["batch_size"]) == (network, epochs, batch)
    assert (content["pruning"]["batches"], content["pruning"]["batch_size"]) == batches
    optimizer = content["optimizer"]
    assert (optimizer["backbone_lr"], optimizer["weight_decay"], optimizer.get("nesterov", False)) == (
        *(rate, decay, nesterov),
    )
    assert optimizer["momentum"] == 0.9
    assert content["schedule"]["name"] == "multistep"
    assert [share * epochs for share in content["schedule"]["milestones"]] == pytest.approx(after)
