"""Backbones by name, in both tasks."""

import pytest
import torch

from px_seg import InputError, build_segmenter
from px_seg.models import build_classifier, build_encoder


def test_unknown_encoders_and_strides_are_refused() -> None:
    with pytest.raises(InputError, match=r"no encoder 'resnet51': did you mean resnet5"):
        build_segmenter("resnet51", weights="none")
    with pytest.raises(InputError, match=r"no encoder 'tu-nothing'"):
        build_segmenter("tu-nothing", weights="none")
    with pytest.raises(InputError, match="timm has no weights 'nothing' for resnet50: choose one of a1_in1k"):
        build_classifier("tu-resnet50.nothing", weights="none")
    with pytest.raises(InputError, match="tu-vit_tiny_patch16_224 cannot be built as a backbone"):
        build_classifier("tu-vit_tiny_patch16_224", weights="none")
    with pytest.raises(InputError, match="cannot be built on vgg11 at stride 16"):
        build_segmenter("vgg11", weights="none")
    with pytest.raises(InputError, match="output_stride must be 8 or 16, got 32"):
        build_segmenter("resnet18", weights="none", output_stride=32)
    with pytest.raises(InputError, match="cannot be built on resnet20, which is for classifying small images"):
        build_segmenter("resnet20", weights="none")


def test_small_stems_keep_the_size_of_the_image() -> None:
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        encoders = {name: build_encoder(name).eval() for name in ("resnet20", "resnet18_3x3")}
        sizes = {name: [part.shape[-1] for part in encoder(images)] for name, encoder in encoders.items()}
    assert sizes == {"resnet20": [32, 32, 32, 16, 8], "resnet18_3x3": [32, 32, 32, 16, 8, 4]}


@pytest.mark.parametrize("name", ["resnet50", "tu-resnet50_clip"])
def test_segmenter_and_classifier_share_one_backbone(name: str) -> None:
    """The same class, parameters and, undilated, the same features."""
    segmenter, classifier = build_segmenter(name, classes=2, weights="none"), build_classifier(name, 2, "none")
    assert type(segmenter.encoder) is type(classifier.encoder)
    classifier.encoder.load_state_dict(segmenter.encoder.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = [model.encoder.eval()(images)[2] for model in (segmenter, classifier)]
    assert torch.equal(*stem)
