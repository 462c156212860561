import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from px_seg import InputError, build_segmenter
from px_seg.models import load_encoder


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


def test_weights_from_files_reach_the_encoder(tmp_path) -> None:
    """torchvision's names with its classifier; safetensors; and an old file without step counters."""
    state = {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in resnet18().state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "c.pth")
    for name in ("a.pth", "b.safetensors", "c.pth"):
        encoder = build_segmenter("resnet18", classes=3, weights=str(tmp_path / name)).encoder
        assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


class Malicious:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_unusable_weights_are_refused(tmp_path, capsys) -> None:
    def refused(message: str, weights: str, encoder: str = "resnet18") -> None:
        with pytest.raises(InputError, match=message):
            build_segmenter(encoder, classes=3, weights=weights)

    path = tmp_path / "weights.pth"
    refused("imagenet, none or a file; there is no file", str(path))
    torch.save(resnet18().state_dict(), path)
    refused("does not fit the encoder: .* missing", str(path), encoder="resnet34")
    wide = {k: v[:1] for k, v in resnet18().state_dict().items() if v.dim()}
    torch.save(wide, path)
    refused(r"conv1.weight has shape \(1, 3, 7, 7\)", str(path))
    torch.save({"state_dict": {}}, path)
    refused("not a plain dictionary of tensors by name", str(path))
    torch.save({"conv1.weight": Malicious()}, path)
    refused("holds more than tensors", str(path))
    path.write_bytes(b"PK\x03\x04 cut off")
    refused("is not a readable file of weights|is damaged", str(path))
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    refused("not a readable file of weights", str(tmp_path / "weights.safetensors"))
    assert "never" not in capsys.readouterr().out


def test_imagenet_weights_out_of_reach_name_the_ways_out(monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(smp.encoders, "get_encoder", unreachable)
    with pytest.raises(InputError, match=r"no route to host.*--weights FILE.*HF_HOME.*--weights none"):
        load_encoder(nn.Identity(), "resnet50", "imagenet")


def test_unknown_encoders_and_strides_are_refused() -> None:
    with pytest.raises(InputError, match=r"no encoder 'resnet51': did you mean resnet5"):
        build_segmenter("resnet51", weights="none")
    with pytest.raises(InputError, match="no encoder 'tu-nothing'"):
        build_segmenter("tu-nothing", weights="none")
    with pytest.raises(InputError, match="cannot be built on vgg11 at stride 16"):
        build_segmenter("vgg11", weights="none")
    with pytest.raises(InputError, match="output_stride must be 8 or 16, got 32"):
        build_segmenter("resnet18", weights="none", output_stride=32)
