import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models import resnet18

from px_seg import InputError, build_segmenter
from px_seg.models import Classifier, build_classifier, build_encoder, load_model


@pytest.mark.parametrize(("stride", "dilations"), [(16, {6, 12, 18}), (8, {12, 24, 36})])
def test_the_output_stride_decides_the_aspp_rates(stride: int, dilations: set[int]) -> None:
    model = build_segmenter("resnet50", classes=7, weights="none", output_stride=stride).eval()
    aspp = model.decoder.aspp[0]
    assert {m.dilation[0] for m in aspp.modules() if isinstance(m, nn.Conv2d)} - {1} == dilations
    with torch.no_grad():
        x = torch.zeros(1, 3, 64, 64)
        assert model.encoder(x)[-1].shape == (1, 2048, 64 // stride, 64 // stride)
        assert model(x).shape == (1, 7, 64, 64)


def test_a_saved_model_loads_with_the_librarys_own_function(tmp_path) -> None:
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    model = build_segmenter("resnet18", classes=3, weights=str(tmp_path / "resnet18.pth")).eval()
    model.save_pretrained(tmp_path / "model")
    again = smp.from_pretrained(str(tmp_path / "model")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_unknown_encoders_and_strides_are_refused() -> None:
    with pytest.raises(InputError, match=r"no encoder 'resnet51': did you mean resnet5"):
        build_segmenter("resnet51", weights="none")
    with pytest.raises(InputError, match=r"no encoder 'tu-nothing'"):
        build_segmenter("tu-nothing", weights="none")
    with pytest.raises(InputError, match=r"tu-resnet50.nothing cannot be built as a backbone"):
        build_classifier("tu-resnet50.nothing", weights="none")
    with pytest.raises(InputError, match="tu-vit_tiny_patch16_224 cannot be built as a backbone"):
        build_classifier("tu-vit_tiny_patch16_224", weights="none")
    with pytest.raises(InputError, match="cannot be built on vgg11 at stride 16"):
        build_segmenter("vgg11", weights="none")
    with pytest.raises(InputError, match="output_stride must be 8 or 16, got 32"):
        build_segmenter("resnet18", weights="none", output_stride=32)
    with pytest.raises(InputError, match="cannot be built on resnet20, which is for classifying small images"):
        build_segmenter("resnet20", weights="none")


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


def test_a_classifier_is_the_mean_of_its_last_features_times_its_head(generator) -> None:
    model = build_classifier("resnet18", 3, "none").eval()
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        mean = model.encoder(images)[-1].flatten(2).mean(2)
        torch.testing.assert_close(model(images), mean @ model.head.weight.T + model.head.bias)


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
