"""Networks exported for other runtimes, held to torch, evaluated, and used to label images."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers.networks import unsettled
from helpers.runs import classify, go, started, tiny_segmentation
from helpers.watched import WATCHED
from PIL import Image
from segmentation_models_pytorch.encoders._efficientnet import Conv2dDynamicSamePadding
from timm.layers import Conv2dSame
from torch import Tensor, nn

import px_seg
from px_seg import InputError, Masks
from px_seg.commands import main
from px_seg.data.normalisation import Normalisation
from px_seg.data.palette import voc_colours
from px_seg.deploy import export_missing, exported_scores, measure_missing, read_measured
from px_seg.deploy.card import Card
from px_seg.deploy.exported import open_exported, write_onnx
from px_seg.deploy.exported.any_size import SameConv2d
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.exported.onnx_file import PROVIDERS, Provider, Runtime, difference_of, multiple_of, open_onnx
from px_seg.deploy.runs import Setting, _whole
from px_seg.pruning.compaction.narrow import Narrow

CORE = openvino.Core()
"""One alone: see `px_seg.deploy.exported.openvino_file._core`."""

FLOAT = {"INFERENCE_PRECISION_HINT": "f32"}
"""Some processors would take bfloat16."""


def normalised(count: int, height: int, width: int) -> Tensor:
    return torch.randn((count, 3, height, width), generator=torch.Generator().manual_seed(height))


def logits_of(run: Path, images: Tensor) -> Tensor:
    """By torch, from the network that the run saved, padded as its evaluation does."""
    model, (height, width) = px_seg.load_model(run), images.shape[2:]
    with torch.no_grad():
        return model(F.pad(images, (0, -width % 16, 0, -height % 16)))[..., :height, :width]


def validation(run: Path) -> Iterator[tuple[Tensor, np.ndarray]]:
    """The run's validation images, normalised as its network takes them, and their labels."""
    tree = Path(yaml.safe_load((run / "config.yaml").read_text())["data"]["root"]) / "VOCdevkit" / "VOC2012"
    mean, std = (np.array(values, np.float32) for values in px_seg.load_model(run).normalisation)
    for file in sorted((tree / "SegmentationClass").glob("val_*.png")):
        pixels = np.array(Image.open(tree / "JPEGImages" / f"{file.stem}.jpg").convert("RGB"), np.float32) / 255
        yield torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None], np.array(Image.open(file))


def miou_of(run: Path) -> float:
    """The mIoU of torch's labels, by sets of pixels."""
    pairs = [(logits_of(run, images)[0].argmax(0).numpy(), labels) for images, labels in validation(run)]
    found, truth = (
        np.concatenate(pixels) for pixels in zip(*((a[b != 255], b[b != 255]) for a, b in pairs), strict=True)
    )
    assert len(np.unique(found)) > 2
    classes = np.union1d(found, truth)
    return float(np.mean([((found == k) & (truth == k)).sum() / ((found == k) | (truth == k)).sum() for k in classes]))


def failing(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize("size", [(1, 64, 96), (3, 33, 47), (2, 1, 130)])
def test_files_give_the_networks_logits_for_any_number_and_size_of_images(
    finished: Path, size: tuple[int, int, int]
) -> None:
    images = normalised(*size)
    expected = logits_of(finished, images)
    session = onnxruntime.InferenceSession(finished / "export" / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == ("image", ["N", 3, "H", "W"], "tensor(float)")
    assert (given.name, given.shape) == ("logits", ["N", 21, "H", "W"])
    found = session.run(None, {"image": images.numpy()})[0]
    # Nothing but the network is in the other format, either.
    beside = CORE.compile_model(finished / "export" / "model.xml", "CPU", FLOAT)(images.numpy())[0]
    for logits in (found, beside):
        assert np.abs(logits - expected.numpy()).max() < 1e-5 * expected.abs().max()


def test_int8_is_near_on_images_like_those_of_its_calibration(finished: Path) -> None:
    quantised = CORE.compile_model(finished / "export" / "model.int8.xml", "CPU", FLOAT)
    for images, _ in validation(finished):
        expected = logits_of(finished, images)
        error = np.abs(quantised(images.numpy())[0] - expected.numpy())
        assert 0 < error.mean() < 0.4 * expected.std()


def test_a_pruned_network_is_compacted_and_int8_a_quarter_of_it(finished: Path) -> None:
    weights = [
        onnx.numpy_helper.to_array(one) for one in onnx.load(finished / "export" / "model.onnx").graph.initializer
    ]
    saved = px_seg.load_model(finished)
    small = px_seg.compact(saved)
    wide, narrow = (sum(one.numel() for one in network.parameters()) for network in (saved, small))
    assert narrow < 0.8 * wide
    # BatchNorm is part of the convolutions, so there are fewer numbers, but for the odd constant.
    assert 0.95 * narrow < sum(array.size for array in weights) < narrow + 1000
    sizes = {name: (finished / "export" / name).stat().st_size for name in ("model.bin", "model.int8.bin")}
    assert sizes["model.int8.bin"] < 0.3 * sizes["model.bin"]
    constants = in_int8(finished / "export" / "model.int8.xml")
    assert sum(array.size for array in constants) > 0.9 * narrow
    # By hand: 2 * 255 * 64 is below 2**15, and 2 * 255 * 127 is not.
    assert 60 < max(np.abs(array.astype(int)).max() for array in constants) <= 64


def test_int8_takes_its_whole_range_where_it_is_told_to(finished: Path) -> None:
    words = ("--format", "int8", "--int8_range", "whole", "--calibration", "6", "--no_evaluation")
    main(["export", str(finished), *words])
    constants = in_int8(finished / "export" / "model.int8.xml")
    assert 120 < max(np.abs(array.astype(int)).max() for array in constants) <= 128
    about = json.loads((finished / "export" / "export.json").read_text())["files"]["int8"]
    assert (about["calibration"], about["weight_range"]) == (6, "whole")


def in_int8(file: Path) -> list[np.ndarray]:
    return [
        node.get_data()
        for node in CORE.read_model(file).get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8
    ]


def test_depthwise_convolutions_fill_blocks_and_constants_take_no_layer(tmp_path: Path) -> None:
    """In the file itself: channels in multiples of 16, and no convolution beside those of the network."""
    torch.manual_seed(0)
    model = unsettled(px_seg.build_segmenter("tu-tf_efficientnet_lite0", 3, None, 16)).float().eval()
    generator, masks = torch.Generator().manual_seed(0), {}
    for name, weight in px_seg.prunable(model, "encoder").items():
        alive = torch.rand(len(weight), generator=generator) < 0.6
        masks[name] = alive.view(-1, 1, 1, 1).expand(weight.shape).clone()
    small = px_seg.compact(model, Masks(masks))
    assert any(isinstance(module, Narrow) and module.constants for module in small.modules())
    write_onnx(small, tmp_path / "model.onnx", {})
    file = onnx.load(tmp_path / "model.onnx")
    shapes = {one.name: tuple(one.dims) for one in file.graph.initializer}
    layers = [node for node in file.graph.node if node.op_type == "Conv"]
    assert len(layers) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    groups = {node.name: next(one.i for one in node.attribute if one.name == "group") for node in layers}
    depthwise = {count for count in groups.values() if count > 1}
    wide = {m.groups for m in model.encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert depthwise != wide
    assert all(count % 16 == 0 for count in depthwise)
    assert all(shapes[node.input[1]][0] == groups[node.name] for node in layers if groups[node.name] > 1)


def test_a_pattern_for_sparse_units_is_kept_in_the_file_unless_channels_go(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told of layers, and then counted in the ONNX file by itself."""
    run = tmp_path / "patterned"
    config = tiny_segmentation(tmp_path / "tiny.yaml", encoder="tu-test_resnet")
    pattern = ("--method", "px_conserved", "--rounds", 3, "--sparsity", 0.8, "--pattern", "at-most 2:4 from 16")
    # Untrained, the last BatchNorm of each block is 0, and with it the weights into which it goes.
    # Nor does the network's stride divide the images' sides.
    go("--config", config, *pattern, "--epochs", 1, "--data.size", 33, "--output_dir", run)
    layers = json.loads((run / "results.json").read_text())["sparse_layers"]
    assert len(layers) > 5
    capsys.readouterr()
    main(["export", str(run), "--no_compact", "--no_evaluation"])
    said = capsys.readouterr().out
    assert f"2:4 in {len(layers)} layers" in said
    assert f"trtexec --onnx={run}/export.whole/model.onnx --shapes=image:1x3x33x33 " in said
    assert "compaction" not in said
    kept = {weight.shape for weight in in_pattern(run / "export.whole" / "model.onnx")}
    assert {(layer["outputs"], layer["inputs"]) for layer in layers.values()} == {shape[:2] for shape in kept}
    assert len(in_pattern(run / "export.whole" / "model.onnx")) == len(layers)
    main(["export", str(run), "--no_evaluation", "--out", str(tmp_path / "small")])
    left = len(in_pattern(tmp_path / "small" / "model.onnx"))
    assert left < len(layers)
    said = capsys.readouterr().out
    assert f"compaction left the pattern 2:4 to {left} of {len(layers)} layers: --no_compact keeps it" in said
    # A network that never had one is not spoken to of it.
    main(["export", str(finished), "--no_evaluation", "--out", str(tmp_path / "other")])
    assert "2:4" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_onnxruntime_cannot_use_is_refused_in_one_line(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = finished / "export" / "model.onnx"
    # onnxruntime takes the CPU where a provider's libraries cannot be loaded, and says so on the terminal alone.
    for listed in (["CPUExecutionProvider"], ["TensorrtExecutionProvider", "CUDAExecutionProvider"]):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda listed=listed: listed)
        with pytest.raises(InputError, match="has no CUDAExecutionProvider here, which cuda needs: pip install onnx"):
            open_exported(file, "cuda")
        with pytest.raises(InputError, match="has no TensorrtExecutionProvider here, which tensorrt needs: pip "):
            open_exported(file, "tensorrt")
    (finished / "other.onnx").write_text("nothing")
    monkeypatch.undo()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(InputError, match=r"is not an ONNX file that onnxruntime reads and runs by CUDAExecutionPro"):
        open_exported(finished / "other.onnx", "cuda")
    with pytest.raises(InputError, match=r"model\.xml runs on the CPU: give the ONNX file for cuda"):
        open_exported(finished / "export" / "model.xml", "cuda")
    with pytest.raises(InputError, match="run on cpu, cuda, tensorrt, not on npu"):
        open_exported(file, "npu")


def test_onnxruntime_is_told_what_its_providers_understand(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its TensorRT takes True and False alone, and without CUDA behind it leaves the rest to the CPU."""
    asked: list[object] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, file: str, options: object, providers: list[object], **more: object) -> None:
            asked.append(providers)
            super().__init__(file, options, ["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [name for name, _ in asked[-1]]

    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for where in ("tensorrt", "cuda", "cpu"):
        open_exported(finished / "export" / "model.onnx", where)
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    tensorrt = ("TensorrtExecutionProvider", {"trt_sparsity_enable": "True"})
    assert asked == [[tensorrt, cuda], [cuda], [("CPUExecutionProvider", {})]]


@pytest.mark.filterwarnings("ignore:Duplicate provider")
def test_on_a_gpu_the_onnx_file_is_run_in_two_ways(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("cuda", "tensorrt"):
        monkeypatch.setitem(PROVIDERS, where, Provider("CPUExecutionProvider", {}, "cpu"))
    found, left = ExportFolder(finished / "export").opened("cuda")
    assert (list(found), left) == (["onnx", "tensorrt"], [])
    images = normalised(2, 32, 64)
    for one in found.values():
        assert one.file == finished / "export" / "model.onnx"
        torch.testing.assert_close(one(images), logits_of(finished, images), rtol=1e-4, atol=1e-4)
    monkeypatch.setitem(PROVIDERS, "tensorrt", Provider("Missing", {}, "cuda", "install it"))
    found, left = ExportFolder(finished / "export").opened("cuda")
    assert (list(found), left) == (["onnx"], ["onnxruntime has no Missing here, which tensorrt needs: install it"])


def test_what_a_gpu_can_run_and_was_not_measured_is_measured_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_missing([finished], ["onnx"], str)
    measure_missing([finished], str)
    held = json.loads((finished / "latency.json").read_text())
    del held["exported"]["onnx"], held["exported"]["int8"]
    (finished / "latency.json").write_text(json.dumps(held))
    assert not _whole(finished, Setting(device="cpu"))
    for listed, whole in (("CPUExecutionProvider", True), ("CUDAExecutionProvider", False)):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda listed=listed: [listed])
        assert _whole(finished, Setting(device="cuda")) is whole


def test_a_run_that_was_compacted_has_no_whole_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_segmentation(tmp_path / "tiny.yaml", encoder="tu-test_resnet")
    pruned = ("--method", "magnitude", "--granularity", "filter", "--sparsity", 0.5, "--compact", "true")
    go("--config", config, *pruned, "--epochs", 0, "--output_dir", tmp_path / "run")
    said = failing("export", tmp_path / "run", "--no_compact", "--no_evaluation", capsys=capsys)
    assert "was compacted before it trained, and has no other network: leave --no_compact out" in said
    assert not (tmp_path / "run" / "export.whole").exists()


def in_pattern(file: Path) -> list[np.ndarray]:
    """Weights with at most two of every four input channels."""
    arrays = [onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer]
    weights = [array for array in arrays if array.ndim == 4 and array.shape[1] % 4 == 0 and array.any()]
    return [
        weight
        for weight in weights
        if all((weight[:, k : k + 4] != 0).sum(1).max() <= 2 for k in range(0, weight.shape[1], 4))
    ]


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.int8.xml"])
def test_what_there_is_to_know_travels_inside(finished: Path, name: str) -> None:
    # Away from the run.
    for file in (finished / "export").glob(f"{name.removesuffix('.xml').removesuffix('.onnx')}.*"):
        shutil.copy(file, finished.parent)
    exported = open_exported(finished.parent / name)
    results = json.loads((finished / "results.json").read_text())
    card = exported.card
    assert card.classes == tuple(results["class_iou"])
    assert card.normalisation.as_plain() == results["normalisation"]
    assert (card.task, card.size, card.encoder) == ("seg", 32, "tu-test_resnet")
    assert (card.method, card.sparsity, card.multiple) == ("px_conserved", 0.95, 1)
    assert json.loads(card.as_text())["colours"] == voc_colours()[:21].tolist()
    masks, given = exported.masks(), Masks.load(finished / "masks.safetensors")
    assert set(masks) <= {name.replace(".weight", end) for name in given for end in (".weight", ".layer.weight")}
    assert 0 < masks.kept <= given.kept
    assert masks.total < given.total
    assert masks.provenance == given.provenance
    masks.check(small := px_seg.compact(px_seg.load_model(finished), given))
    assert masks.revived(small.state_dict()) == {}
    assert Card.of_text(card.as_text()) == card
    for text in ("", "[]", "{}", card.as_text().replace("px_seg.card/1", "px_seg.card/0")):
        with pytest.raises(ValueError, match=r"card of px_seg|Expecting value"):
            Card.of_text(text)


def test_the_table_is_that_of_the_same_evaluation(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    miou = miou_of(finished)
    summary = json.loads((finished / "export" / "export.json").read_text())["files"]
    assert list(summary) == ["onnx", "openvino", "int8"]
    assert miou > 0.2
    for kind in ("onnx", "openvino"):
        assert summary[kind]["scores"]["miou"] == pytest.approx(miou, abs=1e-4)
        assert 0 < summary[kind]["difference"] < 1e-4
    # Six images calibrate a network of a minute's training: how near it comes depends on the processor.
    assert summary["int8"]["scores"]["miou"] == pytest.approx(miou, abs=0.2)
    output = finished.parent / "scores.json"
    files = [str(finished / "export" / name) for name in ("model.onnx", "model.int8.xml")]
    main(["evaluate", str(finished), "--model", *files, "--output", str(output), "--batch_size", "3"])
    scores = json.loads(output.read_text())
    assert list(scores) == files
    assert scores[files[0]]["class_iou"] == summary["onnx"]["scores"]["class_iou"]
    assert scores[files[1]]["miou"] == pytest.approx(summary["int8"]["scores"]["miou"], abs=1e-6)
    weights = (finished / "export" / "model.int8.bin").stat().st_size
    assert scores[files[1]]["bytes"] == Path(files[1]).stat().st_size + weights == summary["int8"]["bytes"]
    assert f"{scores[files[0]]['miou']:.2%}" in capsys.readouterr().out
    main(["evaluate", str(finished), "--output", str(output)])
    assert json.loads(output.read_text())["torch"]["miou"] == pytest.approx(miou, abs=1e-6)


def test_files_are_measured_beside_the_networks(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["latency", str(finished), "--repeats", "3", "--save"])
    costs = json.loads((finished / "latency.json").read_text())
    assert list(costs["networks"]) == ["dense", "masked", "compacted"]
    assert list(costs["exported"]) == ["onnx", "openvino", "int8"]
    assert costs["exported"]["onnx"]["bytes"] == (finished / "export" / "model.onnx").stat().st_size
    assert all(cost["milliseconds"] > 0 for cost in costs["exported"].values())
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["dense", "masked", "compacted", "onnx", "openvino", "int8"]


def test_networks_that_are_closed_leave_signals_to_be_handled(finished: Path) -> None:
    """A handler's stack that is no more ends the process at the next signal, such as that of a child's end."""
    file = finished / "export" / "model.xml"
    code = (
        "import signal, subprocess, sys, px_seg\nsignal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "one = px_seg.open_exported(sys.argv[1])\ntwo = px_seg.open_exported(sys.argv[1])\ndel one\ndel two\n"
        "subprocess.run([sys.executable, '-c', ''])\nprint('on')"
    )
    assert started("-c", code, file).stdout == "on\n"


def test_nobody_is_told_that_a_file_is_opened(finished: Path) -> None:
    file = str(finished / "export" / "model.xml")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    code = WATCHED.replace("main(sys.argv[1:])", "import px_seg; px_seg.open_exported(sys.argv[1]); print('opened')")
    done = subprocess.run([sys.executable, "-c", code, file], env=environment, capture_output=True, text=True)
    assert done.stdout == "opened\n", done.stderr


def test_nobody_is_told_of_a_quantisation(finished: Path) -> None:
    """NNCF reports its use unless it is told not to before it is imported; it does not under pytest."""
    code = (
        "import sys\nfrom px_seg.commands import main\nmain(sys.argv[1:])\n"
        "from nncf.telemetry.wrapper import telemetry\nprint(type(telemetry).__name__)"
    )
    words = ("export", finished, "--format", "int8", "--no_evaluation", "--calibration", 300, "--threads", 1)
    assert started("-c", code, *words).stdout.splitlines()[-1] == "MagicMock"
    # There are no 300.
    assert json.loads((finished / "export" / "export.json").read_text())["files"]["int8"]["calibration"] == 80


def test_an_exported_file_labels_images(finished: Path, tmp_path: Path) -> None:
    tree = Path(yaml.safe_load((finished / "config.yaml").read_text())["data"]["root"]) / "VOCdevkit" / "VOC2012"
    image = np.array(Image.open(sorted(tree.glob("JPEGImages/val_*.jpg"))[0]).convert("RGB").resize((45, 70)))
    Image.fromarray(image).save(tmp_path / "photo.png")
    labels = {}
    for name in ("run", "run/export/model.onnx", "run/export/model.xml"):
        with pytest.raises(SystemExit) as caught:
            main(
                [
                    "predict",
                    str(tmp_path / name),
                    str(tmp_path / "photo.png"),
                    "--out",
                    str(tmp_path / f"labels{name[-4:]}"),
                    "--flip",
                ]
            )
        assert caught.value.code == 0
        labels[name] = np.array(Image.open(tmp_path / f"labels{name[-4:]}" / "photo.png"))
    assert all((found == labels["run"]).mean() > 0.999 for found in labels.values())
    assert len(np.unique(labels["run"])) > 1
    model = open_exported(finished / "export" / "model.onnx")
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, images: seen.append(tuple(images[0].shape)))
    assert (px_seg.predict(model, image, flip=True) == labels["run/export/model.onnx"]).all()
    # The file pads images itself.
    assert seen == [(1, 3, 70, 45)] * 2


@pytest.mark.parametrize("kind", [Conv2dSame, Conv2dDynamicSamePadding])
def test_a_convolution_that_pads_to_fit_is_the_same_in_whole_numbers(kind: type[nn.Conv2d]) -> None:
    for kernel, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 4), (1, 2, 1), (4, 3, 1), (2, 2, 1)):
        layer = kind(2, 3, (kernel, kernel), stride=(stride, stride), dilation=(dilation, dilation)).double()
        for height, width in ((9, 12), (16, 16), (5, 31), (1, 8)):
            images = torch.randn(1, 2, height, width, dtype=torch.float64)
            expected = layer(images)
            own = nn.Conv2d.__new__(SameConv2d)
            own.__dict__ = layer.__dict__
            torch.testing.assert_close(own(images), expected, rtol=1e-12, atol=1e-12)


def test_a_segmenter_whose_layers_pad_to_fit_takes_any_size_without_padding_them_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = px_seg.build_segmenter("tu-tf_mobilenetv3_small_minimal_100", 3, None)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert write_onnx(model, tmp_path / "model.onnx", {}) < 1e-5
    # The image's own padding; those of the layers are part of them.
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node].count("Pad") == 1
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert multiple_of(model) == 1
    assert multiple_of(px_seg.build_classifier("tu-tf_mobilenetv3_small_minimal_100", 3, None)) == 32


def test_a_file_of_other_weights_is_told_from_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = (px_seg.build_segmenter("tu-test_resnet", 3, None).eval() for _ in range(2))
    write_onnx(model, tmp_path / "model.onnx", {})
    runtime = open_onnx(tmp_path / "model.onnx")
    assert difference_of(model, runtime, 48) < 1e-5
    with pytest.raises(InputError, match="differ from the network's by"):
        difference_of(other, runtime, 48)
    nothing = Runtime(lambda images: torch.full_like(images, torch.nan), {}, torch.device("cpu"))
    with pytest.raises(InputError, match="are NaN"):
        difference_of(model, nothing, 48)

    def refuse(images: Tensor) -> Tensor:
        raise RuntimeError("of another shape")

    with pytest.raises(InputError, match=r"take \(1, 3, 48, 48\) and give \(1, 3, 48, 48\): of another shape"):
        difference_of(model, Runtime(refuse, {}, torch.device("cpu")), 48)


def test_a_classifier_is_exported_and_evaluated(small: Path, tmp_path: Path) -> None:
    results = classify("--config", small, "--method", "magnitude", "--output_dir", tmp_path / "run")
    main(["export", str(tmp_path / "run")])
    images = normalised(3, 45, 37)
    session = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "model.onnx")
    found = session.run(["logits"], {"image": images.numpy()})[0]
    with torch.no_grad():
        expected = px_seg.load_model(tmp_path / "run")(images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    summary = json.loads((tmp_path / "run" / "export" / "export.json").read_text())
    assert summary["files"]["onnx"]["scores"]["accuracy"] == pytest.approx(results["accuracy"], abs=1e-6)


def test_a_second_export_keeps_what_it_does_not_write_and_mixes_no_networks(
    finished: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = finished / "export"
    before = json.loads((export / "export.json").read_text())
    main(["export", str(finished), "--no_evaluation"])
    after = json.loads((export / "export.json").read_text())
    assert after["files"]["int8"] == before["files"]["int8"]
    assert after["files"]["onnx"]["scores"] is None
    assert [file.name for file in export.iterdir() if file.name.startswith(".")] == []
    classify("--config", small, "--method", "dense", "--sparsity", 0, "--epochs", 0, "--output_dir", tmp_path / "other")
    said = failing("export", tmp_path / "other", "--no_evaluation", "--out", export, capsys=capsys)
    assert "holds files of another network" in said
    (export / "export.json").write_text("{")
    assert "is damaged" in failing("export", finished, "--no_evaluation", capsys=capsys)


def test_runs_of_a_sweep_are_exported_and_measured_once(finished: Path, tmp_path: Path) -> None:
    said: list[str] = []
    runs = [finished, tmp_path / "none"]
    export_missing(runs[:1], ["int8", "onnx"], said.append)
    assert exported_scores(finished)["int8"]["calibration"] == 6
    measure_missing(runs[:1], said.append)
    assert [line.partition(":")[0] for line in said] == ["measured 1 of 1"]
    assert set(read_measured(finished)["exported"]) == {"onnx", "openvino", "int8"}
    # What was not evaluated is exported anew; what is new is measured.
    summary = finished / "export" / "export.json"
    held = json.loads(summary.read_text())
    held["files"]["onnx"]["scores"] = None
    summary.write_text(json.dumps(held))
    (finished / "export" / "model.int8.xml").unlink()
    said.clear()
    with pytest.raises(
        InputError, match=r"1 of 2 runs were not exported; the first: there is no finished run in .*none"
    ):
        export_missing(runs, ["onnx"], said.append)
    assert said[0] == f"exporting 1 of 2: {finished}"
    assert exported_scores(finished)["onnx"] == held["files"]["openvino"]["scores"]
    assert list(exported_scores(finished)) == ["onnx", "openvino"]
    measure_missing(runs[:1], said.append)
    assert said[-1].startswith("measured 1 of 1")
    costs = read_measured(finished)
    del costs["exported"]["onnx"]
    (finished / "latency.json").write_text(json.dumps(costs))
    said.clear()
    for _ in range(2):
        measure_missing(runs[:1], said.append)
    assert len(said) == 1
    assert set(read_measured(finished)["exported"]) == {"onnx", "openvino"}
    costs["exported"]["onnx"] = {"milliseconds": 0, "quartiles": [1, 2], "bytes": 3}
    (finished / "latency.json").write_text(json.dumps(costs))
    with pytest.raises(InputError, match=r"latency\.json is damaged"):
        read_measured(finished)


def test_files_that_cannot_be_opened_keep_no_run_from_being_measured(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "export" / "model.onnx").write_bytes(b"none")
    main(["latency", str(finished), "--repeats", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ["dense", "masked", "compacted", "openvino", "int8"]
    assert "left out" in lines[-1]
    assert "model.onnx is not an ONNX file" in lines[-1]


def test_masks_and_cards_that_are_damaged_are_told(finished: Path) -> None:
    exported = open_exported(finished / "export" / "model.onnx")
    exported._runtime = exported._runtime._replace(notes={"masks": "AAAA"})
    with pytest.raises(InputError, match=r"the masks in .* are damaged"):
        exported.masks()
    text = exported.card.as_text()
    for wrong in (text.replace('"multiple": 1', '"multiple": 0'), text.replace('"size": 32', '"size": Infinity')):
        with pytest.raises(ValueError, match="card of px_seg"):
            Card.of_text(wrong)


def test_a_classifier_that_pads_to_fit_is_refused_where_it_would_not_take_its_own_images(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--encoder", "tu-tf_mobilenetv3_small_minimal_100", "--data.size", 40, "--epochs", 0)
    classify("--config", small, *flags, "--method", "magnitude", "--output_dir", tmp_path / "run")
    assert "takes sides that 32 divides alone" in failing("export", tmp_path / "run", capsys=capsys)
    assert not (tmp_path / "run" / "export").exists()


def test_an_operation_that_onnx_does_not_have_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_y1(self.layer(x))

    with pytest.raises(InputError, match=r"Odd cannot be exported to ONNX: .*bessel_y1"):
        write_onnx(Odd(), tmp_path / "model.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in (finished / "export").iterdir()}

    def full(proto: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    assert "cannot be written to (No space left on device)" in failing("export", finished, capsys=capsys)
    assert {file.name: file.read_bytes() for file in (finished / "export").iterdir()} == before


def test_bad_input_is_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export = finished / "export"
    (tmp_path / "empty").mkdir()
    torch.manual_seed(0)
    write_onnx(px_seg.build_segmenter("tu-test_resnet", 3, None), tmp_path / "bare.onnx", {})
    card = open_exported(export / "model.onnx").card
    other = Card(**{**vars(card), "classes": ("cat", "dog", "cow")})
    write_onnx(px_seg.build_segmenter("tu-test_resnet", 3, None), tmp_path / "other.onnx", {"card": other.as_text()})
    shifted = Card(**{**vars(card), "normalisation": Normalisation.of((0.1,) * 3, (0.9,) * 3)})
    shutil.copy(tmp_path / "other.onnx", tmp_path / "shifted.onnx")
    proto = onnx.load(tmp_path / "shifted.onnx")
    onnx.helper.set_model_props(proto, {"card": shifted.as_text()})
    onnx.save(proto, tmp_path / "shifted.onnx")
    (tmp_path / "broken.onnx").write_bytes((export / "model.onnx").read_bytes()[:5000])
    (tmp_path / "text.xml").write_text("<html/>")
    shutil.copy(export / "model.xml", tmp_path / "alone.xml")
    (tmp_path / "file").touch()
    for words, said in (
        (("export", tmp_path / "empty"), "there is no finished run in"),
        (
            ("export", finished, "--format", "onnx,tflite"),
            "there is no format 'tflite': choose of onnx, openvino",
        ),
        (("export", finished, "--format", ","), "takes names separated by commas"),
        (("export", finished, "--calibration", 0), "takes a whole number from 1 on"),
        (("export", finished, "--data.root", tmp_path / "gone"), "gone"),
        (("export", finished, "--out", tmp_path / "file"), "cannot be written to"),
        (("evaluate", tmp_path / "empty"), "there is no finished run in"),
        (("evaluate", finished, "--model", tmp_path / "gone.onnx"), "there is no file"),
        (("evaluate", finished, "--model", tmp_path / "shifted.onnx"), "takes images normalised by mean 0.1"),
        (("evaluate", finished, "--model", finished / "config.yaml"), "is no exported network"),
        (("evaluate", finished, "--model", tmp_path / "bare.onnx"), "has no card of px_seg in it"),
        (("evaluate", finished, "--model", tmp_path / "other.onnx"), r"of 3 classes (cat, dog, cow, ...)"),
        (("evaluate", finished, "--model", tmp_path / "broken.onnx"), "is not an ONNX file that onnxruntime reads"),
        (("evaluate", finished, "--model", tmp_path / "text.xml"), "is not a network that OpenVINO reads"),
        (("evaluate", finished, "--model", tmp_path / "alone.xml"), "is not a network that OpenVINO reads"),
        (("evaluate", finished, "--output", tmp_path / "gone" / "a.json"), "--output"),
        (("predict", tmp_path / "bare.onnx", "a.png", "--out", tmp_path / "out"), "has no card of px_seg in it"),
    ):
        line = failing(*words, capsys=capsys)
        assert said in line, line
        assert len(line) < 500
    results = json.loads((finished / "results.json").read_text())
    (finished / "results.json").write_text(json.dumps({**results, "class_iou": {"one": 0.5, "two": 0.5}}))
    assert "have other classes than those of the run" in failing("evaluate", finished, capsys=capsys)
    (finished / "results.json").write_text(json.dumps(results))
    (finished / "model").rename(finished / "own")
    px_seg.save_model(px_seg.build_segmenter("tu-test_resnet", 3, None), finished / "model")
    for command in ("export", "evaluate"):
        assert "tells 3 classes apart, and its results.json 21" in failing(command, finished, capsys=capsys)
    shutil.rmtree(finished / "model")
    (finished / "own").rename(finished / "model")
    (finished / "masks.safetensors").unlink()
    assert "there is no mask file" in failing("export", finished, "--no_evaluation", capsys=capsys)
    for package, words in (("onnxscript", ("export", finished)), ("nncf", ("export", finished, "--format", "int8"))):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            line = failing(*words, capsys=capsys)
        assert line == f"error: {package} is not installed: pip install 'px_seg[export]' brings it"
