import numpy as np
import pytest
import torch
from PIL import Image

from px_seg import InputError
from px_seg.data.loaders import (
    Transformed,
    check_pruning_batches,
    drawn,
    evaluation_loader,
    pruning_batches,
    training_loader,
)
from px_seg.data.palette import voc_colours
from px_seg.data.synthetic import Synthetic
from px_seg.data.transforms import MEAN, STD, evaluation, to_uint8, training
from px_seg.data.voc import VOC
from px_seg.tasks.segmentation import check


def tree(voc):
    return voc / "VOCdevkit" / "VOC2012"


class TestSynthetic:
    def test_a_sample_depends_on_seed_split_and_index_alone(self) -> None:
        data, again = Synthetic("train", 20), Synthetic("train", 100)
        for index in (0, 7):
            data[3]
            assert np.array_equal(data[index].image, again[index].image)
            assert np.array_equal(data[index].mask, again[index].mask)
        assert not np.array_equal(data[0].image, Synthetic("train", 20, seed=1)[0].image)

    def test_splits_are_disjoint(self) -> None:
        train, val = Synthetic("train", 50), Synthetic("val", 50)
        images = {data[index].image.tobytes() for data in (train, val) for index in range(50)}
        assert len(images) == 100

    def test_every_class_occurs_and_borders_are_void(self) -> None:
        data = Synthetic("val", 60)
        labels = np.concatenate([data[index].mask.ravel() for index in range(60)])
        assert set(np.unique(labels)) == {*range(len(data.classes)), 255}
        shares = np.bincount(labels, minlength=256) / len(labels)
        assert 0.5 < shares[0] < 0.9
        assert shares[1 : len(data.classes)].min() > 0.01
        mask = data[0].mask
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            differ = a != b
            assert ((a[differ] == 255) | (b[differ] == 255)).all()

    def test_colour_does_not_tell_the_class(self) -> None:
        """The mean colour of an object says as little about its class as chance would."""
        data = Synthetic("train", 400)
        colours, labels = [], []
        for index in range(len(data)):
            image, mask = data[index]
            for label in set(np.unique(mask)) - {0, 255}:
                colours.append(image[mask == label].mean(0))
                labels.append(label)
        colours, labels = np.array(colours), np.array(labels)
        half = len(labels) // 2
        distances = ((colours[half:, None] - colours[None, :half]) ** 2).sum(-1)
        guessed = labels[:half][distances.argmin(1)]
        chance = np.mean([(labels == label).mean() ** 2 for label in set(labels)]) * len(set(labels))
        assert (guessed == labels[half:]).mean() < chance + 0.1

    def test_bad_requests_are_refused(self) -> None:
        with pytest.raises(InputError, match="no split 'test': choose one of train, val"):
            Synthetic("test", 4)
        with pytest.raises(InputError, match="at least 32"):
            Synthetic("train", 4, size=16)
        with pytest.raises(InputError, match="val_images must be at least 1"):
            Synthetic("val", 0)


class TestVOC:
    def test_palette_indices_are_read_not_colours(self, voc) -> None:
        data = VOC(voc, "train")
        image, mask = data[2]
        assert image.shape == (64, 80, 3)
        assert mask.shape == (64, 80)
        assert set(np.unique(mask)) == {0, 3, 255}
        assert len(data.classes) == 21

    @pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_the_root_may_be_any_of_the_folders(self, voc, below: str) -> None:
        assert len(VOC(voc / below, "val")) == 4

    def test_train_aug_is_every_augmented_mask_that_val_does_not_list(self, voc) -> None:
        augmented = tree(voc) / "SegmentationClassAug"
        augmented.mkdir()
        for name in ("train_0", "train_5", "val_1"):
            mask = Image.open(tree(voc) / "SegmentationClass" / f"{name}.png")
            Image.fromarray(np.asarray(mask)).save(augmented / f"{name}.png")
        data = VOC(voc, "train_aug")
        assert data.names == ["train_0", "train_5"]
        assert VOC(voc, "train_aug", held_out="train").names == ["val_1"]
        assert set(np.unique(data[1].mask)) == {0, 6, 255}

    def test_classes_can_be_named(self, voc) -> None:
        (tree(voc) / "classes.txt").write_text("nothing\nsomething\n")
        data = VOC(voc, "train")
        assert data.classes == ("nothing", "something")
        with pytest.raises(InputError, match=r"train_1.png holds the label 2: labels are 0..1"):
            data[1]

    def test_a_missing_tree_names_the_place_and_the_download(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"nowhere/VOCdevkit/VOC2012.*--data.download"):
            VOC(tmp_path / "nowhere", "train")

    def test_a_missing_or_empty_split_is_named(self, voc) -> None:
        with pytest.raises(InputError, match=r"no split 'tset'.*the splits there are: train, val"):
            VOC(voc, "tset")
        with pytest.raises(InputError, match="SegmentationClassAug, which is missing"):
            VOC(voc, "train_aug")
        (tree(voc) / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
        with pytest.raises(InputError, match="split val is empty"):
            VOC(voc, "val")

    def test_an_image_without_its_mask_is_named(self, voc) -> None:
        (tree(voc) / "SegmentationClass" / "train_4.png").unlink()
        with pytest.raises(InputError, match=r"train_4.jpg of split train has no mask"):
            VOC(voc, "train")
        (tree(voc) / "JPEGImages" / "val_0.jpg").unlink()
        with pytest.raises(InputError, match=r"lists an image that is missing: .*val_0.jpg"):
            VOC(voc, "val")

    def test_a_mask_of_another_size_is_named(self, voc) -> None:
        Image.fromarray(np.zeros((7, 9), np.uint8)).save(tree(voc) / "SegmentationClass" / "train_3.png")
        with pytest.raises(InputError, match=r"train_3.png is 9x7 pixels, but its image train_3.jpg is 75x71"):
            check(VOC(voc, "train"), "train")

    def test_a_stray_label_is_named(self, voc) -> None:
        path = tree(voc) / "SegmentationClass" / "train_3.png"
        mask = np.array(Image.open(path))
        mask[0, 0] = 77
        Image.fromarray(mask).save(path)
        with pytest.raises(InputError, match=r"train_3.png holds the label 77: labels are 0..20"):
            check(VOC(voc, "train"), "train")

    def test_a_split_without_any_label_is_refused(self, voc) -> None:
        for path in (tree(voc) / "SegmentationClass").glob("val_*.png"):
            Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
        with pytest.raises(InputError, match="no pixel of the val images has a label"):
            check(VOC(voc, "val"), "val images")

    def test_lists_are_read_line_by_line_and_hold_each_name_once(self, voc) -> None:
        listed = tree(voc) / "ImageSets" / "Segmentation" / "val.txt"
        listed.write_bytes(b"\xef\xbb\xbfval_0\r\n\r\nval_2\r\n")
        assert VOC(voc, "val").names == ["val_0", "val_2"]
        listed.write_text("val_0\nval_1\nval_0\n")
        with pytest.raises(InputError, match=r"val.txt lists val_0 twice"):
            VOC(voc, "val")
        listed.write_text("my cat\n")
        with pytest.raises(InputError, match=r"missing: .*my cat.jpg"):
            VOC(voc, "val")
        with pytest.raises(InputError, match="cannot be train_aug"):
            VOC(voc, "train_aug", held_out="train_aug")

    def test_images_that_would_be_misread_are_refused(self, voc) -> None:
        path = tree(voc) / "JPEGImages" / "train_1.jpg"
        Image.fromarray(np.zeros((57, 85), np.uint16)).save(path, format="PNG")
        with pytest.raises(InputError, match=r"train_1.jpg has more than 8 bits"):
            VOC(voc, "train")[1]
        Image.new("RGB", (3, 50)).save(path)
        with pytest.raises(InputError, match=r"train_1.jpg is 3x50 pixels"):
            VOC(voc, "train")[1]

    def test_a_coloured_mask_is_refused(self, voc) -> None:
        path = tree(voc) / "SegmentationClass" / "train_3.png"
        Image.open(path).convert("RGB").save(path)
        with pytest.raises(InputError, match=r"train_3.png is a RGB image"):
            check(VOC(voc, "train"), "train")

    @pytest.mark.parametrize("keep", [0.6, 0.0])
    def test_a_truncated_image_is_named(self, voc, keep: float) -> None:
        path = tree(voc) / "JPEGImages" / "train_6.jpg"
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError, match=r"train_6.jpg is not a readable image"):
            check(VOC(voc, "train"), "train")


class TestTransforms:
    def test_training_is_a_function_of_sample_and_seed(self, voc) -> None:
        sample, transform = VOC(voc, "train")[0], training(48, (0.5, 2.0), 16)
        image, labels = transform(sample, 3)
        transform(sample, 4)
        again, again_labels = transform(sample, 3)
        assert torch.equal(image, again)
        assert torch.equal(labels, again_labels)
        assert not torch.equal(image, transform(sample, 5)[0])
        assert image.shape == (3, 48, 48)
        assert (image.dtype, labels.dtype) == (torch.float32, torch.int64)

    def test_what_the_image_does_not_cover_is_ignored(self, voc) -> None:
        """A size the stride does not divide is rounded up, and padding is mean colour with label 255."""
        image, labels = training(113, (1.0, 1.0), 16)(VOC(voc, "train")[0], 0)
        assert image.shape == (3, 128, 128)
        inside = labels != 255
        assert inside.sum() == 50 * 90 - 30
        assert (labels[113:] == 255).all()
        assert image[:, 113:].abs().max() < 0.02

    def test_image_and_labels_move_together(self) -> None:
        """Colours that encode the label still do after every step that moves pixels."""
        colours = voc_colours()
        mask = np.kron(np.arange(16).reshape(4, 4), np.ones((20, 20))).astype(np.uint8)
        from px_seg.data.base import Sample

        sample = Sample(colours[mask], mask)
        for seed in range(5):
            image, labels = training(48, (1.0, 1.0), 16)(sample, seed)
            assert torch.equal(to_uint8(image), torch.from_numpy(colours)[labels])

    def test_evaluation_shows_whole_images_or_the_papers_crop(self, voc) -> None:
        sample = VOC(voc, "val")[1]
        image, labels = evaluation("whole", 40)(sample, 0)
        assert labels.shape == (57, 85)
        assert torch.equal(to_uint8(image), torch.from_numpy(sample.image))
        expected = (torch.from_numpy(sample.image).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / (
            torch.tensor(STD)[:, None, None]
        )
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
        image, labels = evaluation("centre_crop", 40)(sample, 0)
        assert image.shape == (3, 40, 40)
        assert set(labels.unique().tolist()) <= {0, 2, 255}
        with pytest.raises(InputError, match="choose one of whole, centre_crop"):
            evaluation("sideways", 40)


class TestLoaders:
    def load(self, workers: int, seed: int = 0, epoch: int = 1) -> list:
        data = Transformed(Synthetic("train", 10, 32), training(32, (0.8, 1.2), 16))
        loader = training_loader(data, 4, seed, workers)
        loader.sampler.set_epoch(epoch)
        return list(loader)

    def test_batches_depend_on_seed_and_epoch_and_not_on_workers(self) -> None:
        alone, shared = self.load(0), self.load(2)
        assert len(alone) == len(shared) == 2
        for (a, la), (b, lb) in zip(alone, shared, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(la, lb)
        for other in (self.load(0, seed=1), self.load(0, epoch=2)):
            assert not torch.equal(alone[0][0], other[0][0])

    def test_too_little_data_is_refused(self) -> None:
        data = Transformed(Synthetic("train", 10, 32), training(32, (1.0, 1.0), 16))
        with pytest.raises(InputError, match=r"10 training images do not fill one batch of 6 on each of 2"):
            training_loader(data, 6, 0, 0, processes=2)
        with pytest.raises(InputError, match=r"3 batches of 4 images, but the training set has 10"):
            check_pruning_batches(10, 3, 4)
        with pytest.raises(InputError, match=r"must be at least 1, got -2 and -3"):
            check_pruning_batches(10, -2, -3)

    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_every_image_is_evaluated_once(self, processes: int) -> None:
        data = Transformed(Synthetic("val", 7, 32), evaluation("whole", 32))
        seen = [
            image.numpy().tobytes()
            for process in range(processes)
            for batch in evaluation_loader(data, 2, 0, process, processes)
            for image, _ in batch
        ]
        assert len(seen) == len(set(seen)) == 7

    def test_pruning_batches_hold_different_samples(self) -> None:
        data = Transformed(Synthetic("train", 10, 32), training(32, (1.0, 1.0), 16))
        batches = pruning_batches(data, drawn(data, 2, 3, 0))
        assert [images.shape[0] for images, _ in batches] == [3, 3]
        assert len({image.numpy().tobytes() for images, _ in batches for image in images}) == 6


def test_voc_colours_are_the_published_ones() -> None:
    assert voc_colours()[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]),
        *([192, 128, 128], [0, 64, 128], [224, 224, 192]),
    ]
