"""Where weights come from by name or file, and files that must not be loaded."""

from functools import cache
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from helpers.published import Malicious, archive, assert_filled, clip_state, noise
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from px_seg import InputError, build_classifier, build_segmenter
from px_seg.models import Classifier, build_encoder, check_weights, load_encoder


@pytest.mark.parametrize("where", ["model", ".", "model/model.safetensors"])
def test_an_earlier_runs_model_passes_to_the_other_task(tmp_path, where) -> None:
    segmenter = build_segmenter("resnet18", classes=3, weights="none")
    segmenter.save_pretrained(tmp_path / "model")
    model = Classifier("resnet18", 4)
    loaded = load_encoder(model.encoder, "resnet18", str(tmp_path / where))
    assert_filled(model.encoder, segmenter.encoder.state_dict())
    assert loaded.format == "a run of px_seg"
    assert set(loaded.left_out) == {"the former task's head"}
    model.save_pretrained(tmp_path / "back")
    back = build_segmenter("resnet18", classes=3, weights=str(tmp_path / "back"))
    assert_filled(back.encoder, model.encoder.state_dict())


def test_files_that_cannot_be_used_are_refused(trunk, tmp_path, capsys) -> None:
    path = tmp_path / "weights.pth"

    built = cache(build_encoder)

    def refused(message: str, encoder: str = "resnet50", file: Path = path) -> None:
        with pytest.raises(InputError, match=message) as error:
            load_encoder(built(encoder), encoder, str(file))
        assert "\n" not in str(error.value)

    refused("mocov2, dino, clip.*there is no file")
    torch.save(trunk, path)
    refused("does not fit the encoder resnet18: .*tensors are unknown", encoder="resnet18")
    refused("does not fit the encoder resnet101: .*tensors are missing", encoder="resnet101")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("is not a readable weights file|is damaged")
    torch.save({**trunk, "conv1.weight": Malicious()}, path)
    refused("holds more than tensors")
    torch.save({**trunk, "conv1.weight": trunk["conv1.weight"] * torch.nan}, path)
    refused("conv1.weight has another type, or holds NaN")
    torch.save({**trunk, "bn1.running_var": -trunk["bn1.running_var"]}, path)
    refused("bn1.running_var holds negative variances")
    torch.save({**trunk, "conv1.weight": trunk["conv1.weight"].double() * 1e300}, path)
    refused("conv1.weight has another type, or holds NaN or infinity")
    for strange in (trunk["conv1.weight"].to_sparse(), torch.zeros(1, device="meta"), "word"):
        torch.save({**trunk, "conv1.weight": strange}, path)
        refused("is not a dictionary of tensors by name")
    save_file(trunk, path)
    load_encoder(build_encoder("resnet50"), "resnet50", str(path))
    refused("cannot be a path", file=Path("~nobody-of-this-name/weights"))
    torch.save({**trunk, "surprise": torch.zeros(1)}, path)
    refused("1 tensor is unknown \\(surprise\\)")
    torch.save({"epoch": 3}, path)
    refused("is not a dictionary of tensors by name, and holds none as state_dict or model")
    (tmp_path / "empty").mkdir()
    refused("is a folder without a model", file=tmp_path / "empty")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    refused("not a readable weights file", file=tmp_path / "a.safetensors")
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "encoder", "message"),
    [
        ("mocov2", "resnet18", "for another network: give --encoder resnet50"),
        ("clip", "resnet50", "for another network: give --encoder tu-resnet50_clip"),
        ("torchvision:V9", "resnet50", "no weights 'V9' for resnet50: choose one of IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:V1", "resnet20", "torchvision has no weights for resnet20"),
        ("timm:a9", "resnet50", "timm has no weights 'a9' for resnet50: choose one of a1_in1k"),
        ("timm:a1", "resnet20", "timm has no weights for resnet20"),
        ("imagenet", "tu-resnet50_clip", "are 'openai', not ImageNet's: give --weights timm:openai"),
    ],
)
def test_names_that_do_not_fit_are_refused(weights: str, encoder: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_weights(weights, encoder)


@pytest.mark.slow
def test_names_are_downloaded_and_say_their_version(trunk, tmp_path, monkeypatch) -> None:
    """Each name asks its own source, which is replaced here: nothing is fetched."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def fetch(url: str, target: str, *_: object, **__: object) -> None:
        asked.append(url)
        if "clip" in url:
            archive(clip_state(), Path(target))
        else:
            prefix = "module.encoder_q." if "moco" in url else ""
            torch.save({"state_dict": {prefix + name: value for name, value in trunk.items()}}, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for weights, encoder, title in (
        ("mocov2", "resnet50", "MoCo v2"),
        ("dino", "resnet50", "torchvision's or timm's names"),
        ("clip", "tu-resnet50_clip", "CLIP"),
    ):
        loaded = load_encoder(build_encoder(encoder), encoder, weights)
        assert loaded.format == title
        assert asked[-1] in loaded.source
        load_encoder(build_encoder(encoder), encoder, weights)
    assert len(asked) == 3

    entry = torchvision.models.ResNet50_Weights
    monkeypatch.setattr(entry, "get_state_dict", lambda self, **_: dict(trunk))
    loaded = load_encoder(build_encoder("resnet50"), "resnet50", "torchvision:IMAGENET1K_V2")
    assert loaded.source == f"torchvision:IMAGENET1K_V2, {entry.IMAGENET1K_V2.url}"

    made = []
    create = timm.create_model
    with monkeypatch.context() as patched:
        patched.setattr(timm, "create_model", lambda name, pretrained: made.append((name, pretrained)) or create(name))
        loaded = load_encoder(build_encoder("resnet50"), "resnet50", "timm:a1_in1k")
    assert (loaded.source, made) == ("timm's resnet50.a1_in1k", [("resnet50.a1_in1k", True)])
    assert loaded.left_out == {"the classifier": ["fc.weight", "fc.bias"]}

    get = smp.encoders.get_encoder
    asked = []
    monkeypatch.setattr(smp.encoders, "get_encoder", lambda name, weights: asked.append((name, weights)) or get(name))
    for encoder, weights, source, call in (
        (
            *("resnet50", "imagenet", "segmentation-models-pytorch's imagenet, smp-hub/resnet50.imagenet at 00cb74e3"),
            ("resnet50", "imagenet"),
        ),
        ("tu-efficientnet_b0", "imagenet", "timm's efficientnet_b0.ra_in1k", ("tu-efficientnet_b0.ra_in1k", True)),
        ("tu-resnet50.a1_in1k", "imagenet", "timm's resnet50.a1_in1k", ("tu-resnet50.a1_in1k", True)),
        ("tu-resnet50", "timm:a2_in1k", "timm's resnet50.a2_in1k", ("tu-resnet50.a2_in1k", True)),
    ):
        target = get(encoder)
        loaded = load_encoder(target, encoder, weights)
        assert (loaded.source, asked[-1]) == (source, call)
        assert loaded.matched == len(target.state_dict())


@pytest.mark.parametrize("weights", ["imagenet", "mocov2"])
def test_weights_out_of_reach_name_the_ways_out(weights: str, tmp_path, monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(smp.encoders, "get_encoder", unreachable)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"no route to host.*--weights FILE.*HF_HOME and TORCH_HOME.*--weights none"):
        load_encoder(nn.Identity(), "resnet50", weights)


def test_old_files_without_step_counters_are_read(tmp_path) -> None:
    state = {name: value for name, value in noise(resnet18().state_dict()).items() if not name.endswith("tracked")}
    torch.save(state, tmp_path / "old.pth")
    encoder = build_segmenter("resnet18", classes=3, weights=str(tmp_path / "old.pth")).encoder
    assert all(torch.equal(encoder.state_dict()[name], state[name]) for name in state if not name.startswith("fc."))


@pytest.mark.parametrize("build", [build_segmenter, build_classifier])
def test_none_means_what_the_word_means(build) -> None:
    states = []
    for weights in (None, "none"):
        torch.manual_seed(0)
        states.append(build("resnet18", 3, weights).state_dict())
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
