"""Datasets that torchvision reads."""

import pickle

import numpy as np
import pytest
from torchvision import datasets

from px_seg import InputError
from px_seg.data.torchvision_sets import cifar, unpack_imagenet


def test_cifar_is_torchvisions(tmp_path, monkeypatch) -> None:
    """A tree of the published layout with ten images; the checksums are the test's own."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["plane", "car", "bird"]
    for file, count in {"one": 8, "test": 4}.items():
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 3 for i in range(count)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(InputError, match=r"no complete cifar10 in .*cifar-10-batches-py.*--data.download"):
        cifar("cifar10", str(tmp_path), None, download=False)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["one", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": None})
    train, test = cifar("cifar10", str(tmp_path), None, download=False)
    assert (len(train), len(test)) == (8, 4)
    assert train[0].image.shape == (32, 32, 3)
    some, _ = cifar("cifar10", str(tmp_path), ["bird", "plane"], download=False)
    assert some.labels == [1, 0, 1, 0, 1]
    assert np.array_equal(some[1].image, train[2].image)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match=r"could not be downloaded \(no route to host\): fetch https://www.cs.toronto"):
        cifar("cifar100", str(tmp_path), None, download=True)


def test_imagenet_folders_need_no_archives(tree) -> None:
    unpack_imagenet(str(tree))
    with pytest.raises(InputError, match=r"no ImageNet in .*train/CLASS/ and val/CLASS/|needs scipy"):
        unpack_imagenet(str(tree / "train"))
