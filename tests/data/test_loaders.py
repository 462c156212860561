"""Batches: which samples, in which order, on which process."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from helpers.runs import CONFIGS, go

from px_seg import InputError
from px_seg.data.loaders import (
    Transformed,
    all_of,
    check_pruning_batches,
    drawn,
    drawn_evenly,
    evaluation_loader,
    pruning_batches,
    training_loader,
)
from px_seg.data.normalisation import IMAGENET
from px_seg.data.synthetic import Synthetic, SyntheticObjects
from px_seg.data.transforms import evaluation, training
from px_seg.progress import bar
from px_seg.tasks import Classification


def test_scores_of_fewer_images_than_there_are_are_none() -> None:
    data = Transformed(Synthetic("val", 5, 32), evaluation("whole", 32, IMAGENET))
    loader = evaluation_loader(data, 2, 0, 0, 1)
    for batches in (loader, bar(loader)):
        assert [len(batch) for batch in all_of(batches)] == [2, 2, 1]
    short = iter(list(loader)[:-1])
    loader.__class__ = type("Short", (type(loader),), {"__iter__": lambda self: short})
    with pytest.raises(RuntimeError, match="the evaluation has seen 2 of 3 batches"):
        list(all_of(loader))


KEPT = """
from px_seg.data.loaders import Transformed, training_loader
from px_seg.data.normalisation import IMAGENET
from px_seg.data.synthetic import Synthetic
from px_seg.data.transforms import training
data = Transformed(Synthetic("train", 40, 32), training(32, (1.0, 1.0), 16, IMAGENET))
batches = iter(training_loader(data, 4, 0, 1))
next(batches)
"""
"""A process that ends while something, a traceback for one, still holds on to its loader."""


def test_a_loaders_process_ends_with_the_one_it_loads_for() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class TestLoaders:
    def load(self, workers: int, seed: int = 0, epoch: int = 1) -> list:
        data = Transformed(Synthetic("train", 10, 32), training(32, (0.8, 1.2), 16, IMAGENET))
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
        data = Transformed(Synthetic("train", 10, 32), training(32, (1.0, 1.0), 16, IMAGENET))
        with pytest.raises(InputError, match=r"10 training images do not fill one batch of 6 on each of 2"):
            training_loader(data, 6, 0, 0, processes=2)
        with pytest.raises(InputError, match=r"3 batches of 4 images, but the training set has 10"):
            check_pruning_batches(10, 3, 4)
        with pytest.raises(InputError, match=r"must be at least 1, got -2 and -3"):
            check_pruning_batches(10, -2, -3)

    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_every_image_is_evaluated_once(self, processes: int) -> None:
        data = Transformed(Synthetic("val", 7, 32), evaluation("whole", 32, IMAGENET))
        seen = [
            image.numpy().tobytes()
            for process in range(processes)
            for batch in evaluation_loader(data, 2, 0, process, processes)
            for image, _ in batch
        ]
        assert len(seen) == len(set(seen)) == 7

    def test_pruning_batches_hold_different_samples(self) -> None:
        data = Transformed(Synthetic("train", 10, 32), training(32, (1.0, 1.0), 16, IMAGENET))
        batches = pruning_batches(data, drawn(data, 2, 3, 0))
        assert [images.shape[0] for images, _ in batches] == [3, 3]
        assert len({image.numpy().tobytes() for images, _ in batches for image in images}) == 6


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
