"""Models that are saved and read back."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torchvision.models import resnet18

from px_seg import InputError, build_segmenter
from px_seg.models import Classifier, build_classifier, load_model


def test_a_saved_model_loads_with_the_librarys_own_function(tmp_path) -> None:
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    model = build_segmenter("resnet18", classes=3, weights=str(tmp_path / "resnet18.pth")).eval()
    model.save_pretrained(tmp_path / "model")
    again = smp.from_pretrained(str(tmp_path / "model")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_a_saved_classifier_is_read_back(tmp_path) -> None:
    model = build_classifier("resnet20", 3, "none").eval()
    model.save_pretrained(tmp_path / "model")
    again = Classifier.from_pretrained(str(tmp_path / "model")).eval()
    assert type(load_model(tmp_path / "model")) is Classifier
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))
    assert load_model(tmp_path).head.out_features == 3
    with pytest.raises(InputError, match=r"no model in .*: config.json is missing"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="at least one class, got 0"):
        build_classifier("resnet20", 0, "none")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"the model in .* cannot be read"):
        load_model(tmp_path / "model")
