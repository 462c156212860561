"""Images of other channels than three: how they are read, what the first layer gets, and what is made of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.runs import go, parsed
from PIL import Image
from safetensors.torch import save_file

from px_seg import InputError, build_segmenter, load_model, predict
from px_seg.commands import main
from px_seg.data.images import as_rgb, upright
from px_seg.data.normalisation import IMAGENET
from px_seg.data.survey import conversions, survey_masks
from px_seg.models import channels_of, normalisation_of
from px_seg.tasks import Segmentation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PX_SEG_CACHE", str(tmp_path / "cache"))


def make(folder: Path, channels: int, ending: str) -> tuple[object, ...]:
    """Ten images of so many channels whose last one shows a square, and the flags of a run on them."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(10):
        pixels = rng.integers(0, 100, (40, 48, channels), np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        row, column = rng.integers(0, 20, 2)
        mask[row : row + 16, column : column + 16] = 1
        pixels[..., -1][mask == 1] = 220
        file = folder / "images" / f"{number}{ending}"
        if ending == ".npy":
            np.save(file, pixels)
        else:
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("background\nsquare\n")
    return (
        *("--data.name", "folders", "--data.images", folder / "images", "--data.masks", folder / "masks"),
        *("--data.classes", folder / "classes.txt", "--data.channels", channels, "--data.size", 32),
        *("--data.workers", 0, "--encoder", "tu-test_resnet", "--weights", "none", "--batch_size", 4),
    )


def with_channels(flags: tuple[object, ...], channels: int) -> list[object]:
    found = list(flags)
    found[found.index("--data.channels") + 1] = channels
    return found


@pytest.mark.parametrize(("channels", "ending"), [(1, ".png"), (4, ".tif"), (2, ".npy"), (6, ".npy")])
def test_a_run_learns_is_exported_and_labels(tmp_path: Path, channels: int, ending: str, capsys) -> None:
    flags = make(tmp_path / "data", channels, ending)
    settings = ("--method", "px", "--sparsity", 0.6, "--rounds", 2, "--pruning.batches", 1, "--pruning.batch_size", 2)
    out = tmp_path / "out"
    results = go(*flags, *settings, "--epochs", 2, "--data.cache", "--evaluation.flip", "--output_dir", out)
    known = normalisation_of("tu-test_resnet", "none")
    assert results["normalisation"] == known.for_channels(channels).as_plain()
    model = load_model(out)
    assert channels_of(model) == channels
    image = upright(tmp_path / "data" / "images" / f"0{ending}", channels).pixels
    assert image.shape == (40, 48, channels)
    labels = predict(model, image)
    with pytest.raises(InputError, match=rf"takes an image \(H, W, {channels}\) of uint8"):
        predict(model, np.zeros((40, 48, 3), np.uint8))
    main(["export", str(out), "--no_evaluation"])
    images, found = str(tmp_path / "data" / "images"), str(tmp_path / "labels")
    for run in (out, out / "export" / "model.onnx"):
        with pytest.raises(SystemExit):
            main(["predict", str(run), images, "--out", found, "--overwrite"])
        assert (np.array(Image.open(tmp_path / "labels" / "0.png")) == labels).mean() > 0.999
    main(["latency", str(out), "--repeats", "3"])
    assert "compacted" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^(0|False)$"):
        main(["check", *map(str, flags[:10]), "--output_dir", str(tmp_path / "check")])
    assert "Traceback" not in capsys.readouterr().err


def test_the_first_layer_gets_the_weights_in_turns_as_by_the_library(tmp_path: Path) -> None:
    """The library's own function does it on weights of its own, as if they were pre-trained."""
    torch.manual_seed(0)
    source = smp.encoders.get_encoder("resnet18", weights=None)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for channels in (1, 2, 3, 4, 7):
        expected = smp.encoders.get_encoder("resnet18", weights=None)
        expected.load_state_dict(source.state_dict())
        expected.set_in_channels(channels, pretrained=True)
        model = build_segmenter("resnet18", 3, str(tmp_path / "weights.safetensors"), channels=channels)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[name], tensor), name
        assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 3, 32, 32)
        assert channels_of(model) == channels


def test_a_run_of_other_channels_is_a_start_for_one_like_it(tmp_path: Path) -> None:
    flags = make(tmp_path / "data", 4, ".tif")
    go(*flags, "--method", "random", "--sparsity", 0.5, "--epochs", 1, "--output_dir", tmp_path / "first")
    again = tuple(flag if flag != "none" else tmp_path / "first" for flag in flags)
    go(*again, "--sparsity", 0, "--method", "dense", "--epochs", 0, "--output_dir", tmp_path / "second")
    one, other = (load_model(tmp_path / name).encoder.state_dict() for name in ("first", "second"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    fewer = with_channels(again, 3)
    with pytest.raises(InputError, match=r"conv1|shape"):
        go(*fewer, "--sparsity", 0, "--method", "dense", "--epochs", 0, "--output_dir", tmp_path / "third")


def test_normalisation_follows_the_weights() -> None:
    mean, std = IMAGENET
    assert IMAGENET.for_channels(3) == IMAGENET
    assert IMAGENET.for_channels(1) == ((sum(mean) / 3,), (sum(std) / 3,))
    assert IMAGENET.for_channels(4) == ((*mean, mean[0]), (*std, std[0]))
    assert IMAGENET.for_channels(4).for_channels(4) == IMAGENET.for_channels(4)


def test_colours_become_grey_and_are_noted(tmp_path: Path) -> None:
    flags = make(tmp_path / "data", 3, ".png")
    grey = parsed(*with_channels(flags, 1))
    data = Segmentation(grey).train.data
    expected = np.array(Image.open(data.files(0)[0]).convert("L"))
    assert np.array_equal(data[0].image, expected[..., None])
    (note,) = conversions(data, survey_masks(data, "images"), "images")
    assert note.startswith("8 of the images are not grey and are converted (8 RGB, such as ")


def test_pictures_show_grey_and_the_first_three() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    assert np.array_equal(as_rgb(pixels), pixels[..., :3])
    for channels in (1, 2):
        assert np.array_equal(as_rgb(pixels[..., :channels]), np.repeat(pixels[..., :1], 3, 2))


def test_arrays_of_sixteen_bits_have_their_upper_eight(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 5), np.uint16)
    np.save(tmp_path / "a.npy", values)
    found = upright(tmp_path / "a.npy", 5)
    assert np.array_equal(found.pixels, values // 256)
    assert found.mode == "5 channels of 16 bits"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 30, 3), np.uint8), r"a.npy has 3 channels, and data.channels is 5"),
        (np.zeros((20, 30, 5), np.float32), r"a.npy is an array \(20, 30, 5\) of float32: save"),
        (np.zeros(7, np.uint8), r"a.npy is an array \(7,\) of uint8: save"),
        (np.array([{"a": 1}], object), r"a.npy is not a readable image \(Object arrays cannot be loaded"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        upright(tmp_path / "a.npy", 5)


def test_what_has_other_channels_is_refused_before_time_is_spent(tmp_path: Path, voc: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a.png has 3 channels, and data.channels is 4"):
        upright(tmp_path / "a.png", 4)
    for channels in (0, 65):
        with pytest.raises(InputError, match=rf"data.channels must be from 1 to 64, got {channels}"):
            go("--data.channels", channels, "--output_dir", tmp_path / "out")
    with pytest.raises(InputError, match=r"synthetic images have 3 channels, got data.channels 1"):
        go("--data.channels", 1, "--output_dir", tmp_path / "out")
    flags = ("--data.name", "voc2012", "--data.root", voc, "--data.channels", 4, "--weights", "none", "--data.size", 32)
    with pytest.raises(InputError, match=r"train_0.jpg has 3 channels, and data.channels is 4"):
        go(*flags, "--method", "random", "--sparsity", 0.5, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_is_of_three_channels(tmp_path: Path, capsys) -> None:
    flags = make(tmp_path / "data", 4, ".tif")
    out = tmp_path / "out"
    go(*flags, "--method", "random", "--sparsity", 0.5, "--epochs", 0, "--output_dir", out)
    assert len(json.loads((out / "results.json").read_text())["normalisation"]["mean"]) == 4
    with pytest.raises(SystemExit, match="2"):
        main(["demo", str(out)])
    assert "has images of 4 channels: the page takes pictures of 3" in capsys.readouterr().err
