"""Labelled images: from folders, from torchvision, drawn; and batches that are balanced."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import CONFIGS, go, parsed
from PIL import Image
from torchvision import datasets

from px_seg import InputError
from px_seg.data.class_folders import read_class_folders, tiny_imagenet
from px_seg.data.loaders import Transformed, drawn_evenly
from px_seg.data.synthetic import SyntheticObjects
from px_seg.data.torchvision_sets import cifar, unpack_imagenet
from px_seg.data.transforms import MEAN, STD, classifier_evaluation, classifier_training
from px_seg.tasks import Classification


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train and val of two classes, three and two images each."""
    for split, count in {"train": 3, "val": 2}.items():
        for name in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / "data" / split / name / f"{number}.jpg", seed=number)
    return tmp_path / "data"


def folder_run(tree: Path, out: Path, *flags: object) -> dict:
    small = ("--data.name", "folder", "--data.root", tree, "--data.size", 32, "--data.workers", 0, "--weights", "none")
    small += ("--encoder", "resnet20", "--rounds", 1, "--pruning.per_class", 2, "--pruning.batch_size", 4)
    return go(*small, "--epochs", 1, "--batch_size", 2, "--output_dir", out, *flags, task=Classification)


class TestFolders:
    def test_a_folder_a_class(self, tree) -> None:
        train, val = read_class_folders(tree, None)
        assert (train.classes, val.classes) == (("cat", "dog"), ("cat", "dog"))
        assert (train.labels, val.labels) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
        assert train[4].label == 1
        assert train[4].image.shape == (30, 40, 3)
        assert train.paths[4].name == "1.jpg"

    def test_some_classes_in_the_order_asked_for(self, tree) -> None:
        picture(tree / "train" / "ant" / "0.png")
        picture(tree / "val" / "ant" / "deep" / "0.PNG")
        train, val = read_class_folders(tree, ["dog", "ant"])
        assert train.classes == ("dog", "ant")
        assert train.labels == [0, 0, 0, 1]
        assert val.paths[-1].name == "0.PNG"

    def test_a_run_ends_in_an_accuracy(self, tree, tmp_path) -> None:
        results = folder_run(tree, tmp_path / "out")
        assert results["data"] | {"root": ""} == {
            **{"name": "folder", "root": "", "classes": 2, "train": 6, "val": 4, "size": 32},
            **{"evaluation": "centre_crop"},
        }
        assert results["accuracy"] in (0, 0.25, 0.5, 0.75, 1)

    def test_what_does_not_belong_together_is_refused(self, tree, tmp_path) -> None:
        with pytest.raises(InputError, match="there is no folder nowhere/train"):
            read_class_folders("nowhere", None)
        picture(tree / "val" / "emu" / "0.jpg")
        message = r"have different classes: 1 of val are not in train \(emu\)"
        with pytest.raises(InputError, match=message):
            folder_run(tree, tmp_path / "out")
        (tree / "train" / "emu").mkdir()
        (tree / "train" / "emu" / "notes.txt").write_text("none yet")
        with pytest.raises(InputError, match=r"the class emu has no images in .*train"):
            read_class_folders(tree, None)
        with pytest.raises(InputError, match=r"has no class 'fox': choose data.classes from cat, dog, emu"):
            read_class_folders(tree, ["cat", "fox"])
        assert len(read_class_folders(tree, ["cat", "dog"])[0]) == 6

    def test_one_class_and_one_folder_for_both_are_refused(self, tree, tmp_path) -> None:
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "train").symlink_to(tree / "train")
        (tmp_path / "linked" / "val").symlink_to(tree / "train")
        with pytest.raises(InputError, match="are the same folder"):
            read_class_folders(tmp_path / "linked", None)
        for split in ("train", "val"):
            (tree / split / "cat").rename(tree / split / ".cat")
            (tree / split / "dog" / "._0.jpg").write_bytes(b"not an image")
        with pytest.raises(InputError, match="has one class, dog: classification needs at least two"):
            read_class_folders(tree, None)

    def test_grey_and_cmyk_images_are_converted_and_said(self, tree, tmp_path, capsys) -> None:
        picture(tree / "train" / "cat" / "1.jpg", "L")
        picture(tree / "train" / "dog" / "0.jpg", "CMYK")
        picture(tree / "train" / "dog" / "1.jpg", "CMYK")
        folder_run(tree, tmp_path / "out", "--epochs", 0)
        told = "3 of the training images are not RGB and are converted (2 CMYK, 1 L, such as "
        assert told + f"{tree / 'train' / 'cat' / '1.jpg'})" in capsys.readouterr().out
        train, _ = read_class_folders(tree, None)
        grey = train[1].image
        assert grey.shape == (30, 40, 3)
        assert (grey[..., 0] == grey[..., 1]).all()
        inks = np.asarray(Image.open(tree / "train" / "dog" / "0.jpg")).astype(float)
        # Pillow's conversion: what the inks leave of white.
        expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
        np.testing.assert_allclose(train[3].image, expected, atol=2)

    @pytest.mark.parametrize("keep", [0.0, 0.7])
    def test_a_corrupt_image_is_named_before_anything_is_written(self, tree, tmp_path, keep) -> None:
        path = tree / "val" / "dog" / "1.jpg"
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError, match=r"val/dog/1.jpg is not a readable image"):
            folder_run(tree, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestTinyImageNet:
    def layout(self, root: Path) -> Path:
        base = root / "tiny-imagenet-200"
        lines = []
        for place, name in enumerate(("n01", "n02")):
            for number in range(2):
                picture(base / "train" / name / "images" / f"{name}_{number}.JPEG", size=(64, 64), seed=number)
            (base / "train" / name / f"{name}_boxes.txt").write_text("")
            for number in range(3):
                file = f"val_{3 * place + number}.JPEG"
                picture(base / "val" / "images" / file, size=(64, 64), seed=10 + number)
                lines.append(f"{file}\t{name}\t0\t0\t9\t9\n")
        (base / "val" / "val_annotations.txt").write_text("".join(lines[::-1]))
        return base

    def test_val_is_read_as_it_is_distributed_and_sorted(self, tmp_path) -> None:
        base = self.layout(tmp_path)
        for root in (tmp_path, base):
            train, val = tiny_imagenet(root, None)
            assert (len(train), len(val)) == (4, 6)
            assert val.labels == [0, 0, 0, 1, 1, 1]
            assert [path.name for path in val.paths] == [f"val_{number}.JPEG" for number in range(6)]
        only, _ = tiny_imagenet(base, ["n02", "n01"])
        assert [path.parent.parent.name for path in only.paths] == ["n02", "n02", "n01", "n01"]
        # Sorted into folders, as many keep it.
        for number in range(6):
            target = base / "val" / ("n01" if number < 3 else "n02") / "images" / f"val_{number}.JPEG"
            target.parent.mkdir(parents=True, exist_ok=True)
            (base / "val" / "images" / target.name).rename(target)
        (base / "val" / "val_annotations.txt").unlink()
        (base / "val" / "images").rmdir()
        again = tiny_imagenet(base, None)[1]
        assert again.labels == val.labels

    def test_what_is_missing_is_named(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"no Tiny-ImageNet in .*--data.download"):
            tiny_imagenet(tmp_path, None)
        base = self.layout(tmp_path)
        (base / "val" / "images" / "val_2.JPEG").unlink()
        with pytest.raises(InputError, match=r"val_annotations.txt, line 4: there is no image val_2.JPEG"):
            tiny_imagenet(tmp_path, None)
        listed = base / "val" / "val_annotations.txt"
        lines = listed.read_text().splitlines(keepends=True)
        listed.write_text("".join(lines[:2]) + "\n")
        with pytest.raises(InputError, match=r"is incomplete: 3 images are not in it, for example val_0.JPEG"):
            tiny_imagenet(tmp_path, None)
        listed.write_text("".join(lines[:2] + lines[:1]))
        with pytest.raises(InputError, match=r"line 3: there is no image val_5.JPEG, or it is listed twice"):
            tiny_imagenet(tmp_path, None)
        listed.write_bytes("".join(lines).encode("utf-16"))
        with pytest.raises(InputError, match="not a readable UTF-8 text file"):
            tiny_imagenet(tmp_path, None)


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


class TestSyntheticObjects:
    def test_the_images_of_a_class_do_not_depend_on_the_others(self) -> None:
        every = SyntheticObjects("train", 30, 32)
        some = SyntheticObjects("train", 4, 32, classes=[every.classes[7], every.classes[2]])
        assert (some[0].label, some[1].label) == (0, 1)
        assert np.array_equal(some[0].image, every[7].image)
        assert np.array_equal(some[3].image, every[2 + 15].image)

    def test_splits_are_disjoint_and_classes_even(self) -> None:
        train, val = SyntheticObjects("train", 45, 32), SyntheticObjects("val", 45, 32)
        assert len({data[index].image.tobytes() for data in (train, val) for index in range(45)}) == 90
        assert set(Counter(train.labels).values()) == {3}
        with pytest.raises(IndexError):
            train[45]


class TestTransforms:
    def config(self, *flags: object):
        return parsed("--data.size", 32, *flags, task=Classification).data

    def test_a_sample_depends_on_its_seed_alone(self) -> None:
        sample = SyntheticObjects("train", 2, 48)[1]
        for flags in ((), ("--data.crop", "area", "--data.jitter", 0.4, "--data.grey", 0.5)):
            transform = classifier_training(self.config(*flags))
            first, label = transform(sample, 5)
            assert first.shape == (3, 32, 32)
            assert (label, label.dtype, label.shape) == (1, torch.int64, ())
            transform(sample, 1)
            assert torch.equal(transform(sample, 5)[0], first)
            assert not torch.equal(transform(sample, 6)[0], first)

    def test_padding_moves_the_image_by_so_many_pixels(self) -> None:
        """Of a random picture of the right size, every crop is the picture moved, the rest the mean colour, 0."""
        rng = np.random.default_rng(0)
        sample = SyntheticObjects("train", 1, 32)[0]._replace(image=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        plain = classifier_evaluation("resize", 32)(sample, 0)[0]
        np.testing.assert_allclose(
            plain.numpy(), ((sample.image / 255 - MEAN) / STD).transpose(2, 0, 1), rtol=1e-4, atol=1e-5
        )
        padded = torch.nn.functional.pad(plain, (4, 4, 4, 4))
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
        transform = classifier_training(self.config("--data.flip", "false"))
        places = set()
        for seed in range(40):
            distances = (windows - transform(sample, seed)[0]).abs().amax((1, 2, 3))
            # The fill is rounded to whole values before it is normalised.
            assert distances.min() < 0.01
            places.add(int(distances.argmin()))
        assert len(places) > 20

    def test_the_middle_is_seven_eighths_of_the_short_side(self) -> None:
        image = np.zeros((64, 128, 3), np.uint8)
        image[4:60, 36:92] = 255
        sample = SyntheticObjects("train", 1, 32)[0]._replace(image=image)
        shown = classifier_evaluation("centre_crop", 56)(sample, 0)[0]
        assert shown.shape == (3, 56, 56)
        assert (shown > 0).all()


class TestBalance:
    def batches(self, labels: list[int], *args: int, **kwargs: int) -> list[list[int]]:
        classes = SyntheticObjects.every[: max(labels) + 1]
        data = Transformed(SyntheticObjects("train", len(labels), 32, classes=classes), None)
        return [[labels[index] for index, _ in batch] for batch in drawn_evenly(data, labels, *args, **kwargs)]

    def test_every_class_gives_as_many_or_one_fewer(self) -> None:
        labels = [0] * 50 + [1] * 20 + [2] * 7
        for seed in range(5):
            first, second = self.batches(labels, 2, 10, seed)
            assert sorted(Counter(first + second).values()) == [6, 7, 7]
            for batch in (first, second):
                assert len(batch) == 10
                assert set(Counter(batch).values()) <= {3, 4}
        # A class that runs out leaves the rest to the others.
        assert Counter(self.batches(labels, 1, 40, 0)[0]) == {0: 17, 1: 16, 2: 7}

    def test_so_many_of_every_class(self) -> None:
        labels = [0, 1, 2] * 5
        batches = self.batches(labels, 99, 4, 0, per_class=3)
        assert [len(batch) for batch in batches] == [4, 4, 1]
        assert Counter(label for batch in batches for label in batch) == {0: 3, 1: 3, 2: 3}
        with pytest.raises(InputError, match=r"asks for 6 images of every class, but .* has 5"):
            self.batches(labels, 1, 4, 0, per_class=6)

    def test_samples_are_drawn_by_the_seed_and_once(self) -> None:
        data, labels = Transformed(SyntheticObjects("train", 12, 32), None), [0, 1] * 6
        first, again, other = (drawn_evenly(data, labels, 2, 4, seed) for seed in (0, 0, 1))
        assert first == again != other
        indices = [index for batch in first for index, _ in batch]
        assert len(set(indices)) == 8

    def test_a_run_prunes_with_them(self, tmp_path) -> None:
        flags = ("--pruning.per_class", 2, "--pruning.batch_size", 8, "--epochs", 0, "--rounds", 1, "--data.size", 32)
        flags += ("--encoder", "resnet20", "--data.train_images", 60, "--output_dir", tmp_path / "out")
        results = go("--config", CONFIGS / "cls" / "synthetic.yaml", *flags, task=Classification)
        assert results["pruning"] == {"batches": 4, "batch_size": 8, "per_class": 2}
