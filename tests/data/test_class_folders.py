"""Labelled images in a folder a class, and Tiny-ImageNet."""

from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import picture
from helpers.runs import go
from PIL import Image

from px_seg import InputError
from px_seg.data.class_folders import read_class_folders, tiny_imagenet
from px_seg.tasks import Classification


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
