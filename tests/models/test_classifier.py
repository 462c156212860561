"""Classifiers: size, features, head."""

import pytest
import torch

from px_seg.models import build_classifier


@pytest.mark.parametrize(
    ("encoder", "classes", "side", "parameters"),
    [
        # He et al. (2016) state 0.27 M for the first; the others by hand, from the layers' shapes.
        ("resnet20", 10, 32, 272_474),
        ("vgg16_bn", 100, 32, 14_774_436),
        ("resnet18_3x3", 200, 64, 11_271_432),
        ("resnet50", 1000, 64, 25_557_032),
    ],
)
def test_classifiers_have_the_published_numbers_of_parameters(encoder, classes, side, parameters) -> None:
    model = build_classifier(encoder, classes, "none").eval()
    assert sum(part.numel() for part in model.parameters()) == parameters
    with torch.no_grad():
        assert model(torch.zeros(2, 3, side, side)).shape == (2, classes)


def test_a_classifier_is_the_mean_of_its_last_features_times_its_head(generator) -> None:
    model = build_classifier("resnet18", 3, "none").eval()
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        mean = model.encoder(images)[-1].flatten(2).mean(2)
        torch.testing.assert_close(model(images), mean @ model.head.weight.T + model.head.bias)
