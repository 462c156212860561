"""TorchScript archives, read for their tensors alone."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from helpers.published import Malicious, archive, clip_state

from px_seg import InputError, build_classifier, build_segmenter
from px_seg.models import build_encoder
from px_seg.models.torchscript import is_torchscript, read_torchscript


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
