"""Images of any kind and size, labelled by a network in Python and by the command."""

import json
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.runs import classify, go
from PIL import Image
from torch import Tensor, nn

import px_seg
from px_seg import InputError
from px_seg.commands import main
from px_seg.data import images
from px_seg.data.base import Sample
from px_seg.data.normalisation import IMAGENET
from px_seg.data.palette import voc_colours
from px_seg.data.transforms import evaluation
from px_seg.deploy import Views, labelling, video
from px_seg.deploy.predicting import Segmenter, _places, _windowed


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def discerning(model: nn.Module) -> nn.Module:
    """The model itself, no class being the likeliest everywhere, as one is by the random bias of a new decoder."""
    noise = torch.from_numpy(picture(64, 64, 1)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        logits = model.eval()((noise - 0.45) / 0.23)
        model.segmentation_head[0].bias -= logits.mean((0, 2, 3))
    assert len(np.unique(px_seg.predict(model, picture(64, 64)))) > 2
    return model


class ByPosition(nn.Module):
    """Logits of a pixel that depend on it alone: its red, green and blue, weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.normalisation = IMAGENET
        self.seen: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(x.shape)
        assert x.shape[2] % 32 == 0
        assert x.shape[3] % 32 == 0
        return self.layer(x)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return discerning(px_seg.build_segmenter("resnet18", classes=5, weights=None)).train()


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 47), (64, 64)])
def test_labels_are_the_largest_logits_of_the_normalised_image(model: nn.Module, size: tuple[int, int]) -> None:
    image = picture(*size)
    labels = px_seg.predict(model, image)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert model.training
    # By albumentations, as in evaluation.
    x = evaluation("whole", 64, IMAGENET)(Sample(image, np.zeros(size, np.uint8)), 0)[0][None]
    model.eval()
    with torch.no_grad():
        logits = model(F.pad(x, (0, -size[1] % 16, 0, -size[0] % 16)))[0, :, : size[0], : size[1]]
    best = logits.max(0).values - logits.gather(0, torch.from_numpy(labels).long()[None])[0]
    assert best.max() < 1e-4


def test_windows_cover_the_image_and_agree_where_only_the_pixel_counts() -> None:
    model, image = ByPosition(), picture(150, 333)
    whole = px_seg.predict(model, image)
    model.seen.clear()
    assert (px_seg.predict(model, image, window=96) == whole).all()
    assert {tuple(shape[2:]) for shape in model.seen} == {(96, 96)}
    assert len(model.seen) == 2 * 5
    x = torch.randn(1, 3, 150, 333)
    segmenter = Segmenter.of(model.eval())
    with torch.no_grad():
        torch.testing.assert_close(_windowed(segmenter, x, 96), _windowed(segmenter, x, None))
    for side in range(64, 700, 7):
        starts = _places(side, 64)
        assert starts[0] == 0
        assert starts[-1] == side - 64
        assert all(0 <= after - before <= 44 for before, after in pairwise(starts))


def test_views_average_probabilities_over_mirror_images_and_sizes(model: nn.Module) -> None:
    image = picture(48, 80)
    model.eval()
    segmenter = Segmenter.of(model)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    x = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean)[None] / std
    with torch.no_grad():
        half = F.interpolate(x, (24, 40), mode="bilinear", antialias=True)
        halves = [model(F.pad(v, (0, 8, 0, 8)))[..., :24, :40].softmax(1) for v in (half, half.flip(-1))]
        wholes = [model(x).softmax(1), model(x.flip(-1)).softmax(1).flip(-1)]
        up = [F.interpolate(p, (48, 80), mode="bilinear", antialias=True) for p in (halves[0], halves[1].flip(-1))]
        mean_of_all = torch.stack([*wholes, *up]).mean(0)[0]
    labels = segmenter.labels(image[None], Views(flip=True, scales=(1.0, 0.5)))[0]
    best = mean_of_all.max(0).values - mean_of_all.gather(0, torch.from_numpy(labels).long()[None])[0]
    assert best.max() < 1e-5
    assert (labels == px_seg.predict(model, image, flip=True, scales=(1, 0.5))).all()


def test_a_model_tells_its_normalisation_also_when_it_comes_from_a_file(model: nn.Module, tmp_path: Path) -> None:
    image = picture(40, 50)
    model.normalisation = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    px_seg.save_model(model, tmp_path)
    read = px_seg.load_model(tmp_path)
    assert read.normalisation == model.normalisation
    assert (px_seg.predict(read, image) == px_seg.predict(model, image)).all()
    assert (px_seg.predict(px_seg.compact(read), image) == px_seg.predict(model, image)).all()
    assert px_seg.build_segmenter("tu-tf_efficientnet_lite0", weights=None).normalisation.mean == (0.5, 0.5, 0.5)


def test_what_cannot_be_predicted_is_refused(model: nn.Module) -> None:
    for image in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(InputError, match=r"an image \(H, W, 3\) of uint8"):
            px_seg.predict(model, image)
    with pytest.raises(InputError, match="a Classifier gives an image one class"):
        px_seg.predict(px_seg.build_classifier("resnet18", 3, None), picture(8, 8))
    with pytest.raises(InputError, match=r"Conv2d does not say how its images are normalised: set model.normalisation"):
        px_seg.predict(nn.Conv2d(3, 2, 1), picture(8, 8))
    model.normalisation = (0.5, 0.5)
    with pytest.raises(InputError, match="means and standard deviations of colours in"):
        px_seg.predict(model, picture(8, 8))
    for scales in ((), (0,), (1, 20), (float("nan"),)):
        with pytest.raises(InputError, match="scales must be factors from 1/16 to 16"):
            px_seg.predict(model, picture(8, 8), scales=scales)
    with pytest.raises(InputError, match="a side of at least 64 pixels, got 32"):
        px_seg.predict(model, picture(8, 8), window=32)


def test_too_little_memory_is_said_in_one_line(model: nn.Module) -> None:
    def full(x: Tensor) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    segmenter = Segmenter.of(model)._replace(network=full)
    with pytest.raises(InputError, match="8x9 pixels take more memory than there is: give a smaller window"):
        segmenter.labels(picture(9, 8)[None], Views())


@pytest.fixture
def run(tiny, tmp_path: Path) -> Path:
    go("--config", tiny, "--epochs", 0, "--output_dir", tmp_path / "run")
    px_seg.save_model(discerning(px_seg.load_model(tmp_path / "run")), tmp_path / "run" / "model")
    return tmp_path / "run"


def predicted(*words: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words), "--device", "cpu"])
    return int(ended.value.code or 0)


def test_the_command_labels_every_kind_of_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    colours = picture(30, 44)
    plain = Image.fromarray(colours)
    kinds: dict[str, Callable[[Path], None]] = {
        "rgb.png": plain.save,
        "below/rgb.png": plain.save,
        "grey.png": plain.convert("L").save,
        "palette.gif": plain.save,
        "cmyk.jpg": plain.convert("CMYK").save,
        "alpha.webp": lambda path: plain.convert("RGBA").save(path, lossless=True),
        "deep.tif": lambda path: Image.fromarray(colours[..., 0] * np.uint16(256) + np.uint16(77)).save(path),
        "one.bmp": Image.fromarray(picture(1, 1)).save,
        "wide.jpeg": Image.fromarray(picture(1, 500)).save,
    }
    for name, save in kinds.items():
        save(folder / name)
    turned = plain.getexif()
    turned[0x0112] = 6
    plain.save(folder / "turned.png", exif=turned)
    (folder / "notes.txt").write_text("not an image")
    assert predicted(run, folder, "--out", out, "--batch_size", 3) == 0
    assert f"10 of 10 files labelled: {out / 'predictions.json'}" in capsys.readouterr().out
    model = px_seg.load_model(run)

    def written(name: str) -> np.ndarray:
        with Image.open(out / name) as image:
            assert image.mode == "P"
            assert image.getpalette() == voc_colours().flatten().tolist()
            return np.array(image)

    labels = px_seg.predict(model, colours)
    for name in ("rgb.png", "below/rgb.png", "alpha.png"):
        assert (written(name) == labels).all()
    assert (written("turned.png") == px_seg.predict(model, np.rot90(colours, -1))).all()
    grey = np.repeat(np.array(plain.convert("L"))[..., None], 3, 2)
    assert (written("grey.png") == px_seg.predict(model, grey)).all()
    assert (written("deep.png") == px_seg.predict(model, np.repeat(colours[..., :1], 3, 2))).all()
    assert written("one.png").shape == (1, 1)
    assert written("wide.png").shape == (1, 500)
    held = json.loads((out / "predictions.json").read_text())
    assert held["skipped"] == {}
    assert held["classes"] == list(json.loads((run / "results.json").read_text())["class_iou"])
    about = held["images"][str(folder / "rgb.png")]
    assert (about["height"], about["width"], about["labels"], about["overlay"]) == (
        30,
        44,
        "rgb.png",
        "rgb.overlay.jpg",
    )
    assert held["images"][str(folder / "below" / "rgb.png")]["labels"] == "below/rgb.png"
    assert about["shares"] == {
        held["classes"][label]: pytest.approx(float((labels == label).mean()), abs=1e-6) for label in np.unique(labels)
    }
    with Image.open(out / "rgb.overlay.jpg") as image:
        assert image.height > 30


def test_a_file_that_is_no_image_is_named_and_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(20, 20)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.mp4").write_text("no video")
    names = ("cut.png", "empty.jpg", "good.png", "text.mp4")
    assert predicted(run, *(tmp_path / name for name in names), "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    for name in ("cut.png", "empty.jpg"):
        assert f"left out: {tmp_path / name} is not a readable image" in said.err
    assert f"left out: {tmp_path / 'text.mp4'} is not a readable video" in said.err
    assert "1 of 4 files labelled, 3 left out" in said.out
    held = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(held["images"]) == [str(tmp_path / "good.png")]
    assert set(held["skipped"]) == {str(tmp_path / name) for name in names} - {str(tmp_path / "good.png")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good.overlay.jpg",
        "good.png",
        "predictions.json",
    ]


def test_a_video_is_labelled_frame_by_frame(run: Path, tmp_path: Path) -> None:
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (52, 34))
    for number in range(5):
        film.write(np.full((34, 52, 3), 50 * number, np.uint8))
    film.release()
    assert predicted(run, tmp_path / "film.avi", "--out", tmp_path / "out", "--batch_size", 2) == 0
    about = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"][str(tmp_path / "film.avi")]
    assert (about["frames"], about["height"], about["width"]) == (5, 34, 52)
    assert sum(about["shares"].values()) == pytest.approx(1, abs=1e-5)
    made = cv2.VideoCapture(str(tmp_path / "out" / "film.overlay.mp4"))
    frames = 0
    while made.read()[0]:
        frames += 1
    assert frames == 5
    assert made.get(cv2.CAP_PROP_FPS) == 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.overlay.mp4", "predictions.json"]


def test_mistakes_on_the_command_line_cost_no_file(
    run: Path, small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out, long = tmp_path / "a.png", tmp_path / "out", tmp_path / f"{'n' * 230}.png"
    Image.fromarray(picture(20, 20)).save(image)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    Image.fromarray(picture(20, 20)).save(tmp_path / "other" / "a.jpg")
    classify("--config", small, "--epochs", 0, "--output_dir", tmp_path / "cls")
    Image.fromarray(picture(20, 20)).save(long)
    (tmp_path / "deep" / "x.png").mkdir(parents=True)
    Image.fromarray(picture(20, 20)).save(tmp_path / "deep" / "x.jpg")
    Image.fromarray(picture(20, 20)).save(tmp_path / "deep" / "x.png" / "y.png")
    before = image.read_bytes()
    for words, message in (
        ((tmp_path / "nothing", image, "--out", out), "there is no finished run in"),
        ((tmp_path / "cls", image, "--out", out), "is of a classifier: predict labels pixels"),
        ((run, tmp_path / "b.png", "--out", out), f"there is no image or folder {tmp_path / 'b.png'}"),
        ((run, tmp_path / "empty", "--out", out), f"there is no image in {tmp_path / 'empty'}"),
        ((run, tmp_path / "other", "--out", tmp_path / "other"), "is the folder that is to be labelled"),
        ((run, long, "--out", out), "is too long a name for a file"),
        ((run, tmp_path / "deep", "--out", out), "would be a file and a folder"),
        ((run, image, "--out", tmp_path, "--overwrite"), "is an image to be labelled, and would be written over"),
        ((run, image, "--out", image), "cannot be a folder"),
        ((run, image, "--out", out, "--scales", "1,big"), "takes factors with commas between them, got '1,big'"),
        ((run, image, "--out", out, "--scales", "100"), "scales must be factors from 1/16 to 16"),
        ((run, image, "--out", out, "--window", "10"), "a side of at least 64 pixels, got 10"),
        ((run, image), "the following arguments are required: --out"),
    ):
        assert predicted(*words) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not out.exists()
    assert image.read_bytes() == before
    assert predicted(run, image, "--out", out) == 0
    assert predicted(run, image, "--out", out) == 2
    assert "is there already: --overwrite writes over it" in capsys.readouterr().err
    assert predicted(run, image, "--out", out, "--overwrite", "--flip", "--scales", "0.5,1") == 0
    # Results below a folder of images are not labelled in their turn.
    folder = tmp_path / "other"
    for _ in range(2):
        assert predicted(run, folder, "--out", folder / "labels", "--overwrite") == 0
    assert list(json.loads((folder / "labels" / "predictions.json").read_text())["images"]) == [str(folder / "a.jpg")]


def test_a_disk_that_is_full_leaves_no_half_picture(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.fromarray(picture(20, 20, number)).save(tmp_path / f"{number}.png")
    made = labelling.overlay
    calls = []

    def failing(*words):
        calls.append(words)
        if len(calls) == 2:
            raise OSError(28, os.strerror(28))
        return made(*words)

    monkeypatch.setattr(labelling, "overlay", failing)
    assert predicted(run, *(tmp_path / f"{n}.png" for n in range(3)), "--out", tmp_path / "out") == 2
    assert "cannot be written to (No space left on device): make room, or give another --out" in capsys.readouterr().err
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["0.overlay.jpg", "0.png", "1.png", "predictions.json"]
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == [str(tmp_path / "0.png")]


def test_files_of_one_name_keep_their_endings(run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        Image.fromarray(picture(20, 20)).save(folder / name)
    (folder / "b.mp4").touch()
    # Named twice, it is there once.
    assert predicted(run, folder, folder / "a.png", "--out", out) == 1
    assert sorted(path.name for path in out.glob("*.png")) == ["a.jpg.png", "a.png.png", "b.png"]


def test_labelling_goes_on_where_it_stopped_and_keeps_what_is_known(run: Path, tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("a.png", "b.png", ".hidden/c.png", ".d.png"):
        Image.fromarray(picture(20, 20)).save(folder / name)
    assert predicted(run, folder / "a.png", "--out", out) == 0
    first = (out / "a.png").stat().st_mtime_ns
    assert predicted(run, folder, "--out", out) == 2
    assert predicted(run, folder, "--out", out, "--resume") == 0
    assert "1 of 1 files labelled" in capsys.readouterr().out
    assert (out / "a.png").stat().st_mtime_ns == first
    held = json.loads((out / "predictions.json").read_text())
    assert list(held["images"]) == [str(folder / name) for name in ("a.png", "b.png")]
    # What can no longer be read has no results of an earlier time.
    (folder / "a.png").write_bytes(b"")
    assert predicted(run, folder, "--out", out, "--overwrite") == 1
    held = json.loads((out / "predictions.json").read_text())
    assert (list(held["images"]), list(held["skipped"])) == ([str(folder / "b.png")], [str(folder / "a.png")])
    assert sorted(path.name for path in out.iterdir()) == ["b.overlay.jpg", "b.png", "predictions.json"]
    (out / "predictions.json").write_text(json.dumps({**held, "classes": ["cat", "dog"]}))
    assert predicted(run, folder, "--out", out, "--overwrite") == 2
    (out / "predictions.json").write_text("{")
    assert predicted(run, folder, "--out", out, "--overwrite") == 2
    said = capsys.readouterr().err
    assert "is of a network with other classes" in said
    assert "predictions.json is damaged" in said


def test_a_file_that_breaks_its_decoder_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.fromarray(picture(20, 20)).save(tmp_path / name)
    errors = {"b.png": RuntimeError("no such plane"), "c.png": MemoryError()}
    opened = images.opened

    def breaking(path: Path) -> Image.Image:
        if path.name in errors:
            raise errors[path.name]
        return opened(path)

    monkeypatch.setattr(images, "opened", breaking)
    Image.fromarray(np.arange(400, dtype=np.int32).reshape(20, 20) % 256).save(tmp_path / "wide.tif")
    names = ("a.png", "b.png", "c.png", "wide.tif", "d.png")
    assert predicted(run, *(tmp_path / name for name in names), "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "2 of 5 files labelled, 3 left out" in said.out
    assert f"{tmp_path / 'b.png'} is not a readable image (no such plane)" in said.err
    assert f"{tmp_path / 'c.png'} takes more memory than there is" in said.err
    assert f"{tmp_path / 'wide.tif'} holds numbers of no known range" in said.err


def test_a_video_that_is_cut_or_cannot_be_written_whole_is_not_called_done(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for number in range(40):
        film.write(picture(64, 64, number))
    film.release()
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    assert predicted(run, tmp_path / "cut.avi", "--out", tmp_path / "out") == 1
    assert re.search(r"cut.avi (can be read up to frame \d+ of 40|is not a readable video)", capsys.readouterr().err)
    monkeypatch.setattr(video._Writer, "_check", lambda self: (_ for _ in ()).throw(OSError("3 of 40 frames")))
    assert predicted(run, tmp_path / "film.avi", "--out", tmp_path / "out") == 2
    assert "cannot be written to (3 of 40 frames)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]
    monkeypatch.undo()
    monkeypatch.setattr(video._Writer, "write", _every_second(video._Writer.write))
    assert predicted(run, tmp_path / "film.avi", "--out", tmp_path / "out") == 2
    assert "20 of 40 frames of a video were written" in capsys.readouterr().err


def _every_second(write: Callable) -> Callable:
    """Loses every second frame, as a full disk would lose the last."""

    def written(self, picture: Image.Image) -> None:
        if self._count % 2 == 0:
            write(self, picture)
        else:
            self._count += 1

    return written


def test_networks_that_return_no_logits_of_classes_are_refused() -> None:
    class Returns(ByPosition):
        def __init__(self, made: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.made = made

        def forward(self, x: Tensor) -> object:
            return self.made(super().forward(x))

    for made, message in (
        (lambda y: y[:, :1], r"the network returns \(1, 1, 32, 32\) for images \(1, 3, 32, 32\)"),
        (lambda y: y[..., ::4, ::4], r"the network returns \(1, 4, 8, 8\)"),
        (lambda y: y.argmax(1), r"the network returns \(1, 32, 32\)"),
        (lambda y: {"out": y}, "the network returns a dict"),
        (lambda y: y * float("nan"), "the network returns NaN"),
    ):
        with pytest.raises(InputError, match=message):
            px_seg.predict(Returns(made), picture(20, 20))
    half = ByPosition().half()
    assert px_seg.predict(half, picture(20, 20), scales=(0.5, 1)).shape == (20, 20)
    assert px_seg.predict(half, picture(20, 20)[:1][::-1], flip=True, scales=0.5).shape == (1, 20)


def test_results_of_another_network_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    Image.fromarray(picture(20, 20)).save(tmp_path / "a.png")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "class_iou": {"one": 1, "two": 0.5}}))
    assert predicted(run, tmp_path / "a.png", "--out", tmp_path / "out") == 2
    assert "tells 7 classes apart, and its results.json 2" in capsys.readouterr().err
    (run / "results.json").write_text(json.dumps(results))
    # A folder that lost its transform: results.json says the same.
    (run / "model" / "albumentations_config_eval.json").unlink()
    assert predicted(run, tmp_path / "a.png", "--out", tmp_path / "out") == 0
    if os.name == "posix":
        assert predicted(run, tmp_path / "a.png", "--out", "/proc/labels") == 2
        assert "cannot be a folder that is written to" in capsys.readouterr().err
