"""Several views of an image, against each one computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg import build_segmenter, predict
from px_seg.models import Views, viewed_scores, whole_logits


@pytest.fixture
def network() -> nn.Module:
    """Sees left and right differently, and takes sides that 4 divides alone."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2] % 4 == x.shape[-1] % 4 == 0
            return 3 * self.layers(x)

    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 3, 21, 34, generator=generator)


def test_one_view_is_the_network_itself(network: nn.Module, images: Tensor) -> None:
    assert torch.equal(viewed_scores(network, images, 4), whole_logits(network, images, 4))


def test_mirrored_views_are_mirrored_back(network: nn.Module, images: Tensor) -> None:
    found = viewed_scores(network, images, 4, Views(flip=True))
    straight, mirrored = (whole_logits(network, view, 4).softmax(1) for view in (images, images.flip(-1)))
    torch.testing.assert_close(found, (straight + mirrored.flip(-1)) / 2)
    assert not torch.allclose(straight, mirrored.flip(-1))
    # What is symmetric has a symmetric prediction.
    both = torch.cat([images, images.flip(-1)], -1)
    scores = viewed_scores(network, both, 4, Views(flip=True))
    torch.testing.assert_close(scores, scores.flip(-1))


def test_scales_are_averaged_in_the_images_size(network: nn.Module, images: Tensor) -> None:
    found = viewed_scores(network, images, 4, Views(scales=(0.5, 1.0, 2.0)))
    parts = []
    for height, width in ((10, 17), (21, 34), (42, 68)):
        scaled = images
        if height != 21:
            scaled = F.interpolate(images, (height, width), mode="bilinear", antialias=height < 21)
        logits = whole_logits(network, scaled, 4)
        if height != 21:
            logits = F.interpolate(logits, (21, 34), mode="bilinear", antialias=height > 21)
        parts.append(logits.softmax(1))
    torch.testing.assert_close(found, sum(parts) / 3)


def test_windows_are_averaged_where_they_overlap(network: nn.Module, images: Tensor) -> None:
    """Of side 12: rows from 0, 8 and 9; columns from 0, 8, 16 and 22."""
    found = viewed_scores(network, images, 4, Views(window=12))
    total, seen = torch.zeros(2, 5, 21, 34), torch.zeros(21, 34)
    for top in (0, 8, 9):
        for left in (0, 8, 16, 22):
            part = images[..., top : top + 12, left : left + 12]
            total[..., top : top + 12, left : left + 12] += whole_logits(network, part, 4)
            seen[top : top + 12, left : left + 12] += 1
    assert int(seen.min()) == 1
    torch.testing.assert_close(found, total / seen)
    # Far from every edge of its window, a pixel is seen as in the whole.
    torch.testing.assert_close(found[..., 4, 4], whole_logits(network, images, 4)[..., 4, 4])
    assert torch.equal(viewed_scores(network, images, 4, Views(window=34)), whole_logits(network, images, 4))


def test_one_that_pools_far_is_given_enough(generator: torch.Generator) -> None:
    model = build_segmenter("resnet18", 3, None, architecture="pan").eval()
    small = torch.randn(1, 3, 40, 70, generator=generator)
    padded = F.pad(small, (0, 128 - 70, 0, 128 - 40))
    with torch.no_grad():
        torch.testing.assert_close(viewed_scores(model, small, 16), model(padded)[..., :40, :70])
    assert predict(model, torch.zeros(40, 70, 3, dtype=torch.uint8).numpy()).shape == (40, 70)


def test_a_side_shorter_than_the_window_is_whole(network: nn.Module, images: Tensor) -> None:
    found = viewed_scores(network, images, 4, Views(window=24))
    parts = [whole_logits(network, images[..., :, left : left + 24], 4) for left in (0, 10)]
    torch.testing.assert_close(found[..., :10], parts[0][..., :10])
    torch.testing.assert_close(found[..., 24:], parts[1][..., 14:])
    torch.testing.assert_close(found[..., 10:24], (parts[0][..., 10:] + parts[1][..., :14]) / 2)
