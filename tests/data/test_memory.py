"""Images kept in memory: the same samples, read once, by every worker, and only where they fit."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.runs import go, parsed
from PIL import Image

from px_seg import InputError
from px_seg.cost import free_memory
from px_seg.data.base import Sample
from px_seg.data.class_folders import read_class_folders
from px_seg.data.loaders import Transformed, evaluation_loader
from px_seg.data.memory import InMemory, sample_sizes
from px_seg.data.survey import survey_images, survey_masks
from px_seg.data.synthetic import Synthetic
from px_seg.data.voc import VOC
from px_seg.run import caching
from px_seg.tasks import Classification, Segmentation, Task


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PX_SEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """Photographs of two classes, one of them on its side by its EXIF data."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for number in range(2):
                about = Image.Exif()
                about[274] = 6 if number else 1
                picture = Image.fromarray(rng.integers(0, 256, (30 + label, 50), np.uint8))
                picture.save(tmp_path / "pets" / split / name / f"{number}.jpg", exif=about)
    return tmp_path / "pets"


def test_the_samples_are_those_of_the_dataset_and_can_be_written_into(voc, turned) -> None:
    train, _ = read_class_folders(turned, None)
    for data, survey in (
        (VOC(voc, "train"), survey_masks(VOC(voc, "train"), "images")),
        (Synthetic("train", 5), survey_masks(Synthetic("train", 5), "images")),
        (train, survey_images(train, "images")),
    ):
        kept = InMemory(data, sample_sizes(survey), "images")
        assert (len(kept), kept.classes, kept.files(1)) == (len(data), data.classes, data.files(1))
        for _ in range(2):
            for index in range(len(data)):
                one, other = kept[index], data[index]
                assert type(one) is type(other)
                assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
                assert one.image.flags.writeable
                one.image[:] = 0
        read = [data[index] for index in range(len(data))]
        masks = [one.mask.nbytes for one in read if isinstance(one, Sample)]
        assert sum(sample_sizes(survey)) == sum(masks) + sum(one.image.nbytes for one in read)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_share_it_however_they_are_started(voc, start: str) -> None:
    task = Segmentation(parsed("--data.name", "voc2012", "--data.root", voc, "--data.size", 32))
    data = task.val.data
    kept = Transformed(
        InMemory(data, sample_sizes(survey_masks(data, "images")), "images", shared=start == "spawn"),
        task.val.transform,
    )
    for index in range(len(data)):
        data.files(index)[0].unlink()
    loader = evaluation_loader(kept, 2, 2, 0, 1)
    loader.multiprocessing_context = start
    batches = list(loader)
    for number, (image, mask) in enumerate(pair for batch in batches for pair in batch):
        assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)
        for found, expected in zip(task.val.transform.unpacked(image, mask), kept[number, 0], strict=True):
            assert torch.equal(found, expected)


def flags(voc: Path, out: Path) -> tuple[object, ...]:
    return (
        *("--data.name", "voc2012", "--data.root", voc, "--data.size", 32, "--epochs", 3, "--batch_size", 4),
        *("--encoder", "tu-test_resnet", "--weights", "none", "--method", "random", "--sparsity", 0.5),
        *("--class_weights", "balanced", "--data.workers", 0, "--output_dir", out),
    )


def test_a_run_is_the_same_and_reads_every_image_once(voc, tmp_path, monkeypatch) -> None:
    """Once found good, which the first run has seen to."""
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *more: opened.append(Path(path).name) or real(path, *more))
    without = go(*flags(voc, tmp_path / "without"))
    opened.clear()
    kept = go(*flags(voc, tmp_path / "kept"), "--data.cache")
    # What is looked at before images are kept is the first one, by which the network's sizes are counted.
    counts = Counter(opened)
    names = [*(f"train_{number}" for number in range(8)), *(f"val_{number}" for number in range(4))]
    assert set(counts) == {f"{name}.{ending}" for name in names for ending in ("jpg", "png")}
    assert {name for name, count in counts.items() if count != 1} <= {"train_0.jpg", "train_0.png"}
    assert (kept["miou"], kept["class_iou"]) == (without["miou"], without["class_iou"])
    assert sum("images are kept in memory" in note for note in kept["notes"]) == 2
    model = "model/model.safetensors"
    assert (tmp_path / "kept" / model).read_bytes() == (tmp_path / "without" / model).read_bytes()


class Alone:
    """Agreement of a single process."""

    def highest(self, number: int) -> int:
        return number


def keep(task: Task) -> list[str]:
    return caching.keep_in_memory(task, Accelerator(cpu=True), Alone(), 0)


def test_an_image_that_changes_meanwhile_is_named(voc) -> None:
    data = VOC(voc, "train")
    sizes = sample_sizes(survey_masks(data, "images"))
    for name, place in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        file = voc / "VOCdevkit" / "VOC2012" / name / f"train_2.{place}"
        with Image.open(file) as image:
            image.crop((0, 0, 40, 40)).save(file)
    with pytest.raises(InputError, match=r"train_2.jpg was changed while it was read"):
        InMemory(data, sizes, "images")


@pytest.mark.parametrize("room", [0, 1])
def test_what_does_not_fit_is_said_and_read_from_its_files(voc, monkeypatch, room: int) -> None:
    """The training images alone, where there is room for them."""
    task = Segmentation(parsed("--data.name", "voc2012", "--data.root", voc, "--data.size", 32))
    size = sum(sample_sizes(survey_masks(task.train.data, "images")))
    monkeypatch.setattr(caching, "free_memory", lambda device: size * room / caching.SHARE + 1)
    notes = keep(task)
    assert isinstance(task.train.data, InMemory) == bool(room)
    assert not isinstance(task.val.data, InMemory)
    assert [("are kept in memory" in note, "are read from their files" in note) for note in notes] == [
        (bool(room), not room),
        (False, True),
    ]


def test_processes_of_one_machine_share_its_memory(turned, monkeypatch) -> None:
    task = Classification(
        parsed("--data.name", "folder", "--data.root", turned, "--data.size", 32, task=Classification)
    )
    size = sum(sample_sizes(survey_images(task.train.data, "images")))
    monkeypatch.setattr(caching, "free_memory", lambda device: 3 * size / caching.SHARE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert all("are read from their files" in note for note in keep(task))


class Group(NamedTuple):
    """How a version of control groups says what memory is left."""

    inside: str
    line: str
    most: str
    taken: str
    spare: str

    def make(self, place: Path, left: int) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / self.most).write_text("1000000\n")
        (place / self.taken).write_text(f"{1200000 - left}\n")
        (place / "memory.stat").write_text(f"anon 5\n{self.spare} 200000\n")


ONE = Group("memory", "3:cpu:/x\n4:memory:", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
TWO = Group("", "0::", "memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize("group", [ONE, TWO], ids=["version 1", "version 2"])
@pytest.mark.parametrize(("outer", "inner"), [(500_000, 400_000), (300_000, 400_000), (500_000, None)])
def test_the_groups_of_a_container_or_job_bound_what_is_free(tmp_path, group: Group, outer, inner) -> None:
    root, own = tmp_path / "groups", tmp_path / "own"
    group.make(root / group.inside / "slurm", outer)
    if inner is not None:
        group.make(root / group.inside / "slurm" / "job", inner)
    own.write_text(f"{group.line}/slurm/job\n")
    assert free_memory(torch.device("cpu"), root, own) == min(outer, inner or outer)


def test_without_a_bound_all_of_the_machine_is_free(tmp_path) -> None:
    TWO.make(tmp_path / "groups", 1)
    (tmp_path / "groups" / "memory.max").write_text("max\n")
    everything = free_memory(torch.device("cpu"), tmp_path / "groups", tmp_path / "nowhere")
    assert everything > 10**8
    assert free_memory(torch.device("cpu"), tmp_path, tmp_path / "nowhere") == pytest.approx(everything, rel=0.2)
