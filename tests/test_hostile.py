"""Files that are made to harm: nothing of them is run, and nothing is made room for that is not there."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from helpers.runs import go, started
from helpers.stopped import Interrupted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

import px_seg
from px_seg import InputError, Masks, predictions
from px_seg.data.transforms import SAVED
from px_seg.deploy.card import Card
from px_seg.deploy.exported.network import open_exported, packed, unpacked
from px_seg.files import parse_json, read_yaml
from px_seg.models import build_encoder, load_encoder
from px_seg.run import checkpoint_files
from px_seg.run.folder import RunFolder

MARK = "unpickled"
"""The file that a pickle leaves where it was read as one."""


class Malicious:
    """Leaves a mark in the folder that the process is in when it is unpickled."""

    def __reduce__(self):
        return open, (MARK, "w")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch) -> Path:
    place = tmp_path / "inside"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def stopped(tiny_session: Path, tmp_path_factory) -> Path:
    """A run whose training was interrupted, with its checkpoints."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        go("--config", tiny_session, *TRAINED, "--output_dir", out, task=Interrupted)
    return out


TRAINED = ("--method", "random", "--epochs", 4, "--threads", 1)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious()))


def archive(path: Path) -> None:
    torch.save({"state": Malicious(), "weight": torch.ones(2)}, path)


def object_array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, classes=np.array([Malicious()], dtype=object), image0=np.array([Malicious()], dtype=object))


PICKLES = {"pickle": plain_pickle, "archive of torch": archive, "archive of numpy": object_array}


def test_the_mark_is_left_where_a_pickle_is_read(inside: Path) -> None:
    plain_pickle(inside / "file")
    pickle.loads((inside / "file").read_bytes()).close()
    assert (inside / MARK).exists()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize(
    "read",
    [
        Masks.load,
        lambda path: load_encoder(build_encoder("resnet18"), "resnet18", str(path)),
        lambda path: predictions.load(path),
        lambda path: read_yaml(path, "the configuration"),
    ],
    ids=["masks", "weights", "samples", "configuration"],
)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_no_reader_of_a_file_runs_its_pickle(inside: Path, kind: str, read: Callable, ending: str) -> None:
    path = inside / f"file.{ending}"
    PICKLES[kind](path)
    with pytest.raises(InputError, match=path.name) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert not (inside / MARK).exists()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", SAVED])
def test_no_file_of_a_model_is_run(inside: Path, finished: Path, kind: str, name: str) -> None:
    shutil.copytree(finished / "model", inside / "model")
    PICKLES[kind](inside / "model" / name)
    with pytest.raises(InputError) as error:
        px_seg.load_model(inside / "model")
    assert "\n" not in str(error.value)
    assert not (inside / MARK).exists()


@pytest.fixture(scope="module")
def finished(tiny_session: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    go("--config", tiny_session, "--method", "random", "--epochs", 0, "--threads", 1, "--output_dir", out)
    return out


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl", "model.safetensors"])
def test_no_file_of_a_checkpoint_is_run(inside: Path, stopped: Path, tiny_session: Path, name: str, kind: str) -> None:
    """Sealed as a checkpoint is: who can write it can compute a hash."""
    out = inside / "run"
    shutil.copytree(stopped, out)
    config = yaml.safe_load((out / "config.yaml").read_text()) | {"output_dir": str(out)}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    found = checkpoint_files.newest(out / "checkpoint", print)
    assert (found.folder / name).is_file()
    PICKLES[kind](found.folder / name)
    (found.folder / "progress.json").unlink()
    found.folder.rename(checkpoint_files.fresh(out / "checkpoint"))
    checkpoint_files.install(out / "checkpoint", found.record)
    with pytest.raises(InputError, match=r"the checkpoint .* cannot be used") as error:
        go("--config", tiny_session, *TRAINED, "--output_dir", out, "--resume")
    assert "\n" not in str(error.value)
    assert not (inside / MARK).exists()


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_no_exported_file_is_run(inside: Path, kind: str, name: str) -> None:
    PICKLES[kind](inside / name)
    plain_pickle(inside / "model.bin")
    with pytest.raises(InputError, match=name) as error:
        open_exported(inside / name)
    assert "\n" not in str(error.value)
    assert not (inside / MARK).exists()


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd"])
def test_an_onnx_file_reads_no_weights_elsewhere(inside: Path, place: str) -> None:
    """ONNX may name a file beside it that holds a tensor."""
    (inside.parent / "secret").write_bytes(bytes(400))
    held = onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [100], bytes(400), raw=True)
    held.ClearField("raw_data")
    held.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": place, "offset": "0", "length": "400"}.items():
        held.external_data.add(key=key, value=value)
    image, logits = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [100]) for n in ("image", "logits"))
    node = onnx.helper.make_node("Add", ["image", "weight"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", [image], [logits], [held])
    (inside / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(InputError, match=r"model.onnx .*External data path"):
        open_exported(inside / "model.onnx")


LIES = {
    "a header longer than the file": lambda data: struct.pack("<Q", 2**40) + data[8:],
    "a header of 2^63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "tensors beyond the end": lambda data: data[: len(data) // 2],
    "bytes that belong to nothing": lambda data: data + bytes(1000),
    "no header": lambda data: data[:8],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(inside: Path, lie: str) -> None:
    encoder = build_encoder("resnet18")
    Masks.ones(encoder).save(inside / "masks.safetensors")
    save_file(encoder.state_dict(), inside / "weights.safetensors")
    for name in ("masks", "weights"):
        file = inside / f"{name}.safetensors"
        file.write_bytes(LIES[lie](file.read_bytes()))
    for name, read in (("masks", Masks.load), ("weights", lambda path: load_encoder(encoder, "resnet18", str(path)))):
        with pytest.raises(InputError, match=rf"{name}.safetensors is not a readable"):
            read(inside / f"{name}.safetensors")


HELD = px_seg.pruning.masks._FORMAT


def written(path: Path, shapes: object, bits: dict[str, torch.Tensor], **about: str) -> Path:
    """A mask file whose header says what it is given."""
    save_file(bits, path, metadata={"format": HELD, "shapes": json.dumps(shapes), **about})
    return path


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": [10**12]},
        {"a": [2**40, 2**40]},
        {"a": [-8]},
        {"a": [True]},
        {"a": [0, 10**30]},
        {"a": 8},
        {"b": [8]},
        [8],
        8,
    ],
)
def test_masks_of_shapes_that_their_bits_do_not_fill_are_refused(inside: Path, shapes: object) -> None:
    path = written(inside / "masks.safetensors", shapes, {"a": torch.zeros(1, dtype=torch.uint8)})
    with pytest.raises(InputError, match=r"masks.safetensors is (damaged|not a readable mask file)"):
        Masks.load(path)


DEEP = "[" * 100_000
"""JSON, and YAML, that a recursive reader does not survive."""


def test_values_nested_without_end_are_refused_by_every_reader(inside: Path, finished: Path) -> None:
    bits = {"a": torch.zeros(1, dtype=torch.uint8)}
    for about in ({"scope": DEEP}, {"settings": DEEP}):
        with pytest.raises(InputError, match="cannot be read"):
            Masks.load(written(inside / "masks.safetensors", {"a": [8]}, bits, **about))
    (inside / "deep.yaml").write_text(DEEP)
    with pytest.raises(InputError, match="nested more than 50 levels deep"):
        read_yaml(inside / "deep.yaml", "the configuration")
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(DEEP)
    with pytest.raises(ValueError, match="nested too deep"):
        Card.of_text(DEEP)
    shutil.copytree(finished, inside / "run")
    (inside / "run" / "results.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"results.json is damaged"):
        px_seg.deploy.card.read_results(inside / "run")
    (inside / "run" / "model" / "config.json").write_text(DEEP)
    with pytest.raises(InputError, match="nested too deep"):
        px_seg.load_model(inside / "run")
    (inside / "run" / "begun.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"begun.json is damaged"):
        RunFolder(inside / "run").began_with()
    (inside / "run" / "metrics.jsonl").write_text(DEEP)
    assert RunFolder(inside / "run").history() == []


def test_masks_in_an_exported_file_are_unpacked_as_far_as_masks_go(monkeypatch) -> None:
    masks = Masks.ones(build_encoder("resnet18"))
    assert unpacked(packed(masks)) == masks
    monkeypatch.setattr("px_seg.deploy.exported.network.LARGEST", 1000)
    with pytest.raises(ValueError, match="take more than 1,000 bytes"):
        unpacked(packed(masks))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_channels": 10**7}, "no network here has more than 1,000,000,000"),
        ({"decoder_channels": 10**4}, "has the shape"),
        ({"classes": 10**7}, "no network here has more than 1,000,000,000"),
        ({"classes": 10**5}, "has the shape"),
        ({"_model_class": "from_pretrained", "pretrained_model_name_or_path": "elsewhere"}, "is no network of"),
        ({"_model_class": "encoders"}, "is no network of"),
        ({"_model_class": ["Unet"]}, "is no network of"),
        ({"encoder_name": "../elsewhere"}, "there is no encoder '../elsewhere'"),
        ({"encoder_name": "tu-hf_hub:who/what"}, "there is no encoder 'tu-hf_hub:who/what'"),
        ({"encoder_name": "tu-local-dir:elsewhere"}, "there is no encoder 'tu-local-dir:elsewhere'"),
        ({"checkpoint_path": "elsewhere.pth"}, "has the setting checkpoint_path, which DeepLabV3Plus does not name"),
        ({"layers": [10**8, 1, 1, 1]}, "has the setting layers, which DeepLabV3Plus does not name"),
    ],
)
def test_a_model_is_as_large_as_its_file(finished: Path, inside: Path, changes: dict, said: str) -> None:
    """And one of the library's, not whatever else the library has by a name."""
    shutil.copytree(finished / "model", inside / "model")
    file = inside / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with Made() as made, pytest.raises(InputError, match=said):
        px_seg.load_model(inside / "model")
    assert made.numbers < 10**7


class Made(TorchFunctionMode):
    """Counts the numbers that there was room made for."""

    numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in (torch.empty, torch.zeros, torch.ones) and not made.is_meta:
            self.numbers += made.numel()
        return made


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

CHANGES = st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6)
"""Bytes to be written over a file, at shares of its length."""


def changed(content: bytes, changes: list[tuple[float, bytes]], keep: float = 1.0) -> bytes:
    found = bytearray(content)
    for place, new in changes:
        start = int(place * len(found))
        found[start : start + len(new)] = new
    return bytes(found[: int(keep * len(found))])


def test_a_mask_file_with_other_bytes_is_read_or_refused(inside: Path) -> None:
    path = inside / "masks.safetensors"
    Masks({"a": torch.ones(3, 5, dtype=torch.bool), "b.weight": torch.zeros(2, dtype=torch.bool)}).save(path)
    whole = path.read_bytes()

    @FUZZ
    @given(CHANGES, st.sampled_from([1.0, 1.0, 0.7]))
    def check(changes: list[tuple[float, bytes]], keep: float) -> None:
        path.write_bytes(changed(whole, changes, keep))
        refused_or(lambda: Masks.load(path))

    check()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_mask_file_that_says_anything_is_read_or_refused(inside: Path) -> None:
    names = st.sampled_from(
        ["criterion", "settings", "sparsity", "rounds", "scope", "seconds", "seed", "method", "other"]
    )
    texts = st.text(max_size=10) | VALUES.map(json.dumps)
    path = inside / "masks.safetensors"

    @FUZZ
    @given(st.dictionaries(st.sampled_from("ab"), VALUES), st.dictionaries(names, texts))
    def check(shapes: dict, about: dict[str, str]) -> None:
        bits = {name: torch.zeros(2, dtype=torch.uint8) for name in "ab"}
        written(path, shapes, bits, **about)
        refused_or(lambda: Masks.load(path))

    check()


YAML = (
    *("a:", "-", "{", "}", "[", "]", "&a", "*a", "?", "<<:", "|", ">", "'", '"', "---", "...", "%YAML 9.9", "0o99"),
    *("!!python/object/apply:os.system", "!!binary", "!!timestamp", "!!float", "2020-13-45", "1e999", ".nan"),
    *(" ", "  ", "\n", "\t", "\x00"),
)


def test_any_yaml_is_read_or_refused(inside: Path) -> None:
    path = inside / "config.yaml"
    pieces = st.sampled_from(YAML)

    @FUZZ
    @given(st.lists(pieces | st.text(max_size=3), max_size=25).map("".join) | st.binary(max_size=40))
    def check(content: str | bytes) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        refused_or(lambda: read_yaml(path, "the configuration"))

    check()
    assert not (inside / MARK).exists()


def test_any_list_of_names_is_read_or_refused(voc: Path) -> None:
    tree = voc / "VOCdevkit" / "VOC2012"
    file = tree / "ImageSets" / "Segmentation" / "any.txt"
    pieces = st.sampled_from(
        ["train_0", "train_1", "\n", "\r\n", " ", "\t", "../", "/", ".", "\x00", "\ufeff", "\u2028", "a" * 300]
    )

    @FUZZ
    @given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join) | st.binary(max_size=30))
    def check(content: str | bytes) -> None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))

        def read() -> None:
            data = px_seg.data.voc.VOC(voc, "any")
            for index in range(len(data)):
                assert all(path.resolve().is_relative_to(tree.resolve()) for path in data.files(index))

        refused_or(read)

    check()


def test_a_checkpoints_record_with_other_bytes_is_damaged(inside: Path, stopped: Path) -> None:
    whole = (stopped / "checkpoint" / "progress.json").read_bytes()
    shutil.copytree(stopped / "checkpoint", inside / "run" / "checkpoint")
    record = inside / "run" / "checkpoint" / "progress.json"
    expected = json.loads(whole)

    @FUZZ
    @given(CHANGES, st.sampled_from([1.0, 1.0, 0.7]))
    def check(changes: list[tuple[float, bytes]], keep: float) -> None:
        content = changed(whole, changes, keep)
        record.write_bytes(content)
        found = checkpoint_files.newest(inside / "run" / "checkpoint", lambda line: None)
        if found is not None:
            # Other bytes, such as a space more, for the same values.
            assert json.loads(content) == expected
        else:
            checkpoint_files.damaged(inside / "run" / "checkpoint")[-1].rename(record.parent)

    check()


def refused_or(read: Callable[[], object]) -> None:
    """What cannot be read is refused in one line; any other exception, and any process that ends, is a defect."""
    said = ""
    try:
        read()
    except InputError as error:
        said = str(error)
    assert "\n" not in said


def test_a_command_given_a_hostile_model_says_one_line(inside: Path, finished: Path) -> None:
    shutil.copytree(finished, inside / "run")
    plain_pickle(inside / "run" / "model" / "model.safetensors")
    done = started("-m", "px_seg", "predict", "run", "--out", "out", "image.png")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (inside / MARK).exists()
