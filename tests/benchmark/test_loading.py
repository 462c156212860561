"""The loaders that ours is measured against do what it does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from px_seg import InputError
from px_seg.benchmark.loading import SCALE, Case, WithPillow, WithTorchvision, report_loading
from px_seg.data.normalisation import IMAGENET
from px_seg.data.transforms import to_uint8, training
from px_seg.data.voc import VOC


@pytest.mark.parametrize("kind", [WithPillow, WithTorchvision])
@pytest.mark.parametrize("size", [40, 160])
def test_images_are_like_ours_in_colour_and_share_of_labels(voc, kind: type[WithPillow], size: int) -> None:
    data = VOC(voc, "train")
    ours, theirs = training(size, SCALE, 1, IMAGENET), kind(data, size)
    drawn = {"ours": [ours(data[2], seed) for seed in range(150)], "theirs": [theirs[2] for _ in range(150)]}
    about = {}
    for name, pairs in drawn.items():
        assert {(image.shape, image.dtype, labels.shape, labels.dtype) for image, labels in pairs} == {
            ((3, size, size), torch.float32, (size, size), torch.int64)
        }
        labels = torch.stack([labels for _, labels in pairs])
        inside = torch.stack([to_uint8(image, IMAGENET).float().mean((0, 1)) for image, _ in pairs])
        about[name] = [*((labels == label).float().mean() for label in (0, 3, 255)), *(inside.mean(0) / 255)]
        assert set(labels.unique().tolist()) == {0, 3, 255}
    assert np.allclose(about["ours"], about["theirs"], atol=0.06)


def test_the_table_has_every_loader(voc: Path, capsys) -> None:
    report_loading(Case(root=str(voc), size=32, batch_size=4, workers=[0, 1], turns=1))
    rows = re.findall(
        r"^\| (\S.*?) \| \d+ \((\d+\.\d\d)\) \| \d+ \(\d+\.\d\d\) \|$", capsys.readouterr().out, re.MULTILINE
    )
    assert [name for name, _ in rows] == ["px_seg", "px_seg, data.cache", "torchvision v2", "Pillow"]
    assert rows[-1][1] == "1.00"


def test_a_bad_case_is_refused(voc) -> None:
    with pytest.raises(InputError, match="--turns and --threads must be at least 1"):
        report_loading(Case(root=str(voc), turns=0))
    with pytest.raises(InputError, match="has 8 training images, which fill no batch of 9"):
        report_loading(Case(root=str(voc), batch_size=9))
