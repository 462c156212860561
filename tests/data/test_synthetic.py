"""Data that is drawn."""

from collections import Counter

import numpy as np
import pytest

from px_seg import InputError
from px_seg.data.synthetic import Synthetic, SyntheticObjects


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
            image, mask, _ = data[index]
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
