"""From a sample to what the network sees."""

import albumentations as A
import numpy as np
import pytest
import torch
from helpers.runs import parsed

from px_seg import InputError
from px_seg.data.base import Sample
from px_seg.data.normalisation import IMAGENET, Normalisation
from px_seg.data.palette import voc_colours
from px_seg.data.synthetic import SyntheticObjects
from px_seg.data.transforms import (
    classifier_evaluation,
    classifier_training,
    evaluation,
    to_uint8,
    training,
)
from px_seg.data.voc import VOC
from px_seg.tasks import Classification


class TestTransforms:
    def test_training_is_a_function_of_sample_and_seed(self, voc) -> None:
        sample, transform = VOC(voc, "train")[0], training(48, (0.5, 2.0), 16, IMAGENET)
        image, labels = transform(sample, 3)
        transform(sample, 4)
        again, again_labels = transform(sample, 3)
        assert torch.equal(image, again)
        assert torch.equal(labels, again_labels)
        assert not torch.equal(image, transform(sample, 5)[0])
        assert image.shape == (3, 48, 48)
        assert (image.dtype, labels.dtype) == (torch.float32, torch.int64)

    @pytest.mark.parametrize("mean", [IMAGENET, Normalisation.of([0.481, 0.457, 0.408], [0.268, 0.261, 0.275])])
    def test_images_are_normalised_bitwise_as_by_albumentations(self, voc, tmp_path, mean: Normalisation) -> None:
        """By the transform that is saved with a model, on every value that a pixel has."""
        transform = evaluation("whole", 40, mean)
        transform.save(tmp_path)
        saved = A.Compose.from_pretrained(tmp_path)
        values = np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)
        every = Sample(
            np.concatenate([values, values[..., ::-1], values[..., [1, 0, 2]]]), np.zeros((48, 16), np.uint8)
        )
        for sample in (every, VOC(voc, "val")[1]):
            image, labels = transform(sample, 0)
            expected = saved(image=sample.image, mask=sample.mask)
            assert torch.equal(image, expected["image"])
            assert torch.equal(labels, expected["mask"].long())
            assert image.is_contiguous()
            packed = [torch.stack([part] * 3) for part in transform.packed(sample, 0)]
            assert [part.dtype for part in packed] == [torch.uint8] * 2
            for found, single in zip(transform.unpacked(*packed), (image, labels), strict=True):
                assert torch.equal(found, torch.stack([single] * 3))

    def test_what_the_image_does_not_cover_is_ignored(self, voc) -> None:
        """A size the stride does not divide is rounded up, and padding is mean colour with label 255."""
        image, labels = training(113, (1.0, 1.0), 16, IMAGENET)(VOC(voc, "train")[0], 0)
        assert image.shape == (3, 128, 128)
        inside = labels != 255
        assert inside.sum() == 50 * 90 - 30
        assert (labels[113:] == 255).all()
        assert image[:, 113:].abs().max() < 0.02

    def test_image_and_labels_move_together(self) -> None:
        """Colours that encode the label still do after every step that moves pixels."""
        colours = voc_colours()
        mask = np.kron(np.arange(16).reshape(4, 4), np.ones((20, 20))).astype(np.uint8)
        sample = Sample(colours[mask], mask)
        for seed in range(5):
            image, labels = training(48, (1.0, 1.0), 16, IMAGENET)(sample, seed)
            assert torch.equal(to_uint8(image, IMAGENET), torch.from_numpy(colours)[labels])

    def test_evaluation_shows_whole_images_or_the_papers_crop(self, voc) -> None:
        sample = VOC(voc, "val")[1]
        image, labels = evaluation("whole", 40, IMAGENET)(sample, 0)
        assert labels.shape == (57, 85)
        assert torch.equal(to_uint8(image, IMAGENET), torch.from_numpy(sample.image))
        expected = (
            torch.from_numpy(sample.image).permute(2, 0, 1) / 255 - torch.tensor(IMAGENET.mean)[:, None, None]
        ) / (torch.tensor(IMAGENET.std)[:, None, None])
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
        image, labels = evaluation("centre_crop", 40, IMAGENET)(sample, 0)
        assert image.shape == (3, 40, 40)
        assert set(labels.unique().tolist()) <= {0, 2, 255}
        with pytest.raises(InputError, match="choose one of whole, centre_crop"):
            evaluation("sideways", 40, IMAGENET)


class TestClassifierTransforms:
    def config(self, *flags: object):
        return parsed("--data.size", 32, *flags, task=Classification).data

    def test_a_sample_depends_on_its_seed_alone(self) -> None:
        sample = SyntheticObjects("train", 2, 48)[1]
        for flags in ((), ("--data.crop", "area", "--data.jitter", 0.4, "--data.grey", 0.5)):
            transform = classifier_training(self.config(*flags), IMAGENET)
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
        plain = classifier_evaluation("resize", 32, IMAGENET)(sample, 0)[0]
        np.testing.assert_allclose(
            plain.numpy(),
            ((sample.image / 255 - IMAGENET.mean) / IMAGENET.std).transpose(2, 0, 1),
            rtol=1e-4,
            atol=1e-5,
        )
        padded = torch.nn.functional.pad(plain, (4, 4, 4, 4))
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
        transform = classifier_training(self.config("--data.flip", "false"), IMAGENET)
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
        shown = classifier_evaluation("centre_crop", 56, IMAGENET)(sample, 0)[0]
        assert shown.shape == (3, 56, 56)
        assert (shown > 0).all()
