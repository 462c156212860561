"""Backbones filled from small files in every published format, and files that must not be loaded."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from px_seg import InputError, build_classifier, build_segmenter
from px_seg.models import Classifier, build_encoder, check_weights, load_encoder
from px_seg.models.formats import mapped
from px_seg.models.torchscript import is_torchscript, read_torchscript


def noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same convolutions, and vectors that no two are equal, so that a norm in another's place shows."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator).to(value) + 0.5 if value.dim() == 1 else value
        for name, value in state.items()
    }


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """A ResNet-50 in torchvision's names, without its classifier."""
    return noise({name: value for name, value in resnet50().state_dict().items() if not name.startswith("fc.")})


def assert_filled(encoder: nn.Module, state: dict[str, Tensor]) -> None:
    own = encoder.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())


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
    vgg = torchvision.models.vgg16_bn().state_dict()
    torch.save({f"module.{name}": value for name, value in vgg.items()}, tmp_path / "vgg.pth")
    encoder = build_encoder("vgg16_bn")
    assert load_encoder(encoder, "vgg16_bn", str(tmp_path / "vgg.pth")).format == "data-parallel"
    assert_filled(encoder, {name: value for name, value in vgg.items() if name.startswith("features.")})


class Scripted(nn.Module):
    """Something with the parameters of the given names, for TorchScript."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def archive(state: dict[str, Tensor], path: Path) -> None:
    """A TorchScript archive whose modules nest as the names' dots say."""
    root = Scripted()
    for name, value in state.items():
        *folders, last = name.split(".")
        module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, Scripted())
            module = module.get_submodule(folder)
        if value.is_floating_point() and "running" not in last:
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(last, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))


def clip_state(half: bool = True) -> dict[str, Tensor]:
    """Tensors by OpenAI's names: timm's network, its names taken back."""
    names: dict[str, Tensor] = {}
    for name, value in timm.create_model("resnet50_clip").state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            new = f"{parts[2] if parts[2] == 'bn' else 'conv'}{parts[1][-1]}.{parts[-1]}"
        elif parts[0] == "stages":
            stage = f"layer{int(parts[1]) + 1}.{parts[2]}"
            if parts[3] == "shortcut":
                new = f"{stage}.downsample.{0 if parts[-2] == 'conv' else 1}.{parts[-1]}"
            else:
                new = f"{stage}.{parts[-2]}{parts[3][4]}.{parts[-1]}"
        else:
            new = f"attnpool.{name.removeprefix('head.')}"
        names[f"visual.{new}"] = value
    state = noise(names)
    state = {name: value.half() if half and value.is_floating_point() else value for name, value in state.items()}
    text = ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "logit_scale")
    return {**state, **{name: torch.zeros(3) for name in text}, "context_length": torch.tensor(77)}


@pytest.mark.parametrize("task", [build_segmenter, build_classifier])
def test_clip_is_read_from_its_archive_in_both_tasks(tmp_path, task) -> None:
    state, path = clip_state(), tmp_path / "RN50.pt"
    archive(state, path)
    assert is_torchscript(path)
    read = read_torchscript(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())

    model = task("tu-resnet50_clip", classes=2, weights=str(path))
    # timm's own conversion of the same file, as the independent reference.
    reference = timm.create_model("resnet50_clip")
    reference.load_state_dict(timm.models.byobnet.checkpoint_filter_fn(dict(read), reference))
    reference, encoder = reference.eval(), model.encoder.eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        expected = reference.forward_intermediates(images, intermediates_only=True)[-1]
        found = build_encoder("tu-resnet50_clip").eval()
        found.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(found(images)[-1], expected)
    with pytest.raises(InputError, match="its own architecture: give --encoder tu-resnet50_clip"):
        task("resnet50", classes=2, weights=str(path))


def test_timms_own_file_fits_its_encoder(tmp_path) -> None:
    state = noise(timm.create_model("resnet50_clip").state_dict())
    torch.save(state, tmp_path / "timm.pth")
    encoder = build_encoder("tu-resnet50_clip")
    loaded = load_encoder(encoder, "tu-resnet50_clip", str(tmp_path / "timm.pth"))
    assert loaded.left_out == {"the classifier": [name for name in state if name.startswith("head.")]}
    flat = {name.replace(".", "_"): value for name, value in state.items()}
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, flat[name.removeprefix("model.").replace(".", "_")])


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


def test_what_a_format_does_not_explain_is_listed(trunk) -> None:
    state = {f"module.encoder_q.{name}": value for name, value in trunk.items()} | {"module.surprise": torch.zeros(1)}
    with pytest.raises(InputError, match=r"looks like MoCo v2, but 1 tensor is unknown \(module.surprise\)"):
        mapped(state, "file")


class Malicious:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_files_that_cannot_be_used_are_refused(trunk, tmp_path, capsys) -> None:
    path = tmp_path / "weights.pth"

    def refused(message: str, encoder: str = "resnet50", file: Path = path) -> None:
        with pytest.raises(InputError, match=message) as error:
            load_encoder(build_encoder(encoder), encoder, str(file))
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


def tampered(source: Path, target: Path, content: bytes | None) -> None:
    """The archive with another pickle in it, or cut off."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name.endswith("/data.pkl"):
                data = data[: len(data) // 2] if content is None else content
            after.writestr(name, data)


def test_a_torchscript_archive_is_read_only_for_its_tensors(tmp_path, capsys) -> None:
    archive({"visual.layer1.weight": torch.ones(2)}, tmp_path / "good.pt")
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump({"weights": Malicious()})
    tampered(tmp_path / "good.pt", tmp_path / "bad.pt", buffer.getvalue())
    with pytest.raises(InputError, match=r"bad.pt is a TorchScript archive that holds more than tensors: .*print"):
        read_torchscript(tmp_path / "bad.pt")
    assert "never" not in capsys.readouterr().out
    tampered(tmp_path / "good.pt", tmp_path / "cut.pt", None)
    with pytest.raises(InputError, match=r"cut.pt is a damaged TorchScript archive"):
        read_torchscript(tmp_path / "cut.pt")
    tampered(tmp_path / "good.pt", tmp_path / "list.pt", pickle.dumps([1], protocol=2))
    with pytest.raises(InputError, match=r"list.pt is a TorchScript archive of a list, not of a module"):
        read_torchscript(tmp_path / "list.pt")


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


def test_old_files_without_step_counters_are_read(tmp_path) -> None:
    state = {name: value for name, value in noise(resnet18().state_dict()).items() if not name.endswith("tracked")}
    torch.save(state, tmp_path / "old.pth")
    encoder = build_segmenter("resnet18", classes=3, weights=str(tmp_path / "old.pth")).encoder
    assert all(torch.equal(encoder.state_dict()[name], state[name]) for name in state if not name.startswith("fc."))
