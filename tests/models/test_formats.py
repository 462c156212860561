"""Every published format, told by its names."""

import pytest
import timm
import torch
import torchvision
from helpers.published import assert_filled, noise
from safetensors.torch import save_file

from px_seg import InputError, build_segmenter
from px_seg.models import build_encoder, load_encoder
from px_seg.models.formats import mapped


def test_mocov2(trunk, tmp_path) -> None:
    state = {f"module.encoder_q.{name}": value for name, value in trunk.items()}
    state |= {f"module.encoder_q.fc.{part}": torch.zeros(2) for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
    state |= {f"module.{name}": torch.zeros(1) for name in ("encoder_k.conv1.weight", "queue", "queue_ptr")}
    path = tmp_path / "moco.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}, path)
    encoder = build_encoder("resnet50")
    loaded = load_encoder(encoder, "resnet50", str(path))
    assert_filled(encoder, trunk)
    assert (loaded.format, loaded.matched) == ("MoCo v2", len(trunk))
    assert {reason: len(names) for reason, names in loaded.left_out.items()} == {
        "the projection head": 4,
        "the momentum encoder": 1,
        "the queue of negatives": 2,
    }
    assert str(loaded) == (
        f"318 tensors from {path} (MoCo v2); left out: 4 of the projection head, 1 of the momentum encoder, "
        "2 of the queue of negatives"
    )


def test_dino_has_torchvisions_names_and_no_classifier(trunk, tmp_path) -> None:
    torch.save(trunk, tmp_path / "dino.pth")
    model = build_segmenter("resnet50", classes=2, weights=str(tmp_path / "dino.pth"))
    assert_filled(model.encoder, trunk)
    # The timm encoder of the same network, as the segmentation library wraps it, has it too.
    encoder = build_encoder("tu-resnet50")
    loaded = load_encoder(encoder, "tu-resnet50", str(tmp_path / "dino.pth"))
    assert_filled(encoder, {f"model.{name}": value for name, value in trunk.items()})
    assert loaded.left_out == {}


def test_torchvision_leaves_its_classifier_out(trunk, tmp_path) -> None:
    save_file({**trunk, "fc.weight": torch.zeros(3, 2048), "fc.bias": torch.zeros(3)}, tmp_path / "a.safetensors")
    encoder = build_encoder("resnet50")
    loaded = load_encoder(encoder, "resnet50", str(tmp_path / "a.safetensors"))
    assert_filled(encoder, trunk)
    assert sorted(loaded.left_out["the classifier"]) == ["fc.bias", "fc.weight"]
    with torch.device("meta"):
        vgg = torchvision.models.vgg16_bn().state_dict()
    # Its classifier would be half a gigabyte.
    vgg = {
        name: torch.rand(value.shape if name.startswith("features.") else 1).to(value.dtype)
        for name, value in vgg.items()
    }
    torch.save({f"module.{name}": value for name, value in vgg.items()}, tmp_path / "vgg.pth")
    encoder = build_encoder("vgg16_bn")
    assert load_encoder(encoder, "vgg16_bn", str(tmp_path / "vgg.pth")).format == "data-parallel"
    assert_filled(encoder, {name: value for name, value in vgg.items() if name.startswith("features.")})


def test_timms_own_file_fits_its_encoder(tmp_path) -> None:
    state = noise(timm.create_model("resnet50_clip").state_dict())
    torch.save(state, tmp_path / "timm.pth")
    encoder = build_encoder("tu-resnet50_clip")
    loaded = load_encoder(encoder, "tu-resnet50_clip", str(tmp_path / "timm.pth"))
    assert loaded.left_out == {"the classifier": [name for name in state if name.startswith("head.")]}
    flat = {name.replace(".", "_"): value for name, value in state.items()}
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, flat[name.removeprefix("model.").replace(".", "_")])


def test_what_a_format_does_not_explain_is_listed(trunk) -> None:
    state = {f"module.encoder_q.{name}": value for name, value in trunk.items()} | {"module.surprise": torch.zeros(1)}
    with pytest.raises(InputError, match=r"looks like MoCo v2, but 1 tensor is unknown \(module.surprise\)"):
        mapped(state, "file")


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "mobilenetv3_large_100", "resnetv2_50"])
def test_what_timm_has_behind_the_features_is_left_out(architecture: str, tmp_path) -> None:
    whole = timm.create_model(architecture).state_dict()
    torch.save(whole, tmp_path / "timm.pth")
    encoder = build_encoder(f"tu-{architecture}")
    loaded = load_encoder(encoder, f"tu-{architecture}", str(tmp_path / "timm.pth"))
    assert loaded.matched == len(encoder.state_dict())
    assert loaded.matched + sum(map(len, loaded.left_out.values())) == len(whole)
    behind = loaded.left_out["the layers behind the features"]
    assert {name.partition(".")[0] for name in behind} <= {"conv_head", "bn2", "norm"}
    torch.save(whole | {"blocks.surprise": torch.zeros(1)}, tmp_path / "timm.pth")
    with pytest.raises(InputError, match=r"1 tensor is unknown \(blocks.surprise\)"):
        load_encoder(encoder, f"tu-{architecture}", str(tmp_path / "timm.pth"))
