"""Images kept in memory: the same samples, read once, by every worker, and only where they fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import go, parsed
from PIL import Image

from px_seg.cost import free_memory
from px_seg.data.base import Sample
from px_seg.data.class_folders import read_class_folders
from px_seg.data.loaders import Transformed, evaluation_loader
from px_seg.data.memory import InMemory, bytes_of
from px_seg.data.survey import survey_images, survey_masks
from px_seg.data.synthetic import Synthetic
from px_seg.data.voc import VOC
from px_seg.run import caching
from px_seg.tasks import Classification, Segmentation


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
        kept = InMemory(data, survey, "images")
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
        assert bytes_of(survey) == sum(masks) + sum(one.image.nbytes for one in read)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_share_it_however_they_are_started(voc, start: str) -> None:
    task = Segmentation(parsed("--data.name", "voc2012", "--data.root", voc, "--data.size", 32))
    data = task.val.data
    kept = Transformed(InMemory(data, survey_masks(data, "images"), "images"), task.val.transform)
    for index in range(len(data)):
        data.files(index)[0].unlink()
    loader = evaluation_loader(kept, 2, 2, 0, 1)
    loader.multiprocessing_context = start
    batches = list(loader)
    for number, (image, mask) in enumerate(pair for batch in batches for pair in batch):
        expected = kept[number, 0]
        assert torch.equal(image, expected[0])
        assert torch.equal(mask, expected[1])


def flags(voc: Path, out: Path) -> tuple[object, ...]:
    return (
        *("--data.name", "voc2012", "--data.root", voc, "--data.size", 32, "--epochs", 2, "--batch_size", 4),
        *("--encoder", "tu-test_resnet", "--weights", "none", "--method", "random", "--sparsity", 0.5),
        *("--class_weights", "balanced", "--output_dir", out),
    )


def test_a_run_is_the_same_and_reads_every_image_once(voc, tmp_path, monkeypatch) -> None:
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *more: opened.append(Path(path).stem) or real(path, *more))
    without = go(*flags(voc, tmp_path / "without"))
    of_without, opened[:] = len(opened), []
    kept = go(*flags(voc, tmp_path / "kept"), "--data.cache")
    assert len(opened) < of_without
    assert (kept["miou"], kept["class_iou"]) == (without["miou"], without["class_iou"])
    assert (tmp_path / "kept" / "metrics.jsonl").read_text().count("loss") == 2
    assert sum("images are kept in memory" in note for note in kept["notes"]) == 2
    model = "model/model.safetensors"
    assert (tmp_path / "kept" / model).read_bytes() == (tmp_path / "without" / model).read_bytes()


@pytest.mark.parametrize("room", [0, 1])
def test_what_does_not_fit_is_said_and_read_from_its_files(voc, monkeypatch, room: int) -> None:
    """The training images alone, where there is room for them."""
    task = Segmentation(parsed("--data.name", "voc2012", "--data.root", voc, "--data.size", 32))
    size = bytes_of(survey_masks(task.train.data, "images"))
    monkeypatch.setattr(caching, "free_memory", lambda device: size * room / caching.SHARE + 1)
    notes = caching.keep_in_memory(task)
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
    size = bytes_of(survey_images(task.train.data, "images"))
    monkeypatch.setattr(caching, "free_memory", lambda device: 3 * size / caching.SHARE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert all("are read from their files" in note for note in caching.keep_in_memory(task))


Group = Callable[[Path], None]


def version_two(root: Path) -> None:
    (root / "memory.max").write_text("1000000\n")
    (root / "memory.current").write_text("700000\n")
    (root / "memory.stat").write_text("anon 5\ninactive_file 200000\n")


def version_one(root: Path) -> None:
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("1000000\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("700000\n")
    (root / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200000\n")


@pytest.mark.parametrize("group", [version_one, version_two])
def test_a_container_bounds_what_is_free(tmp_path, group: Group) -> None:
    group(tmp_path)
    assert free_memory(torch.device("cpu"), tmp_path) == 500_000


def test_without_a_bound_all_of_the_machine_is_free(tmp_path) -> None:
    version_two(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    everything = free_memory(torch.device("cpu"), tmp_path)
    assert everything > 10**8
    assert free_memory(torch.device("cpu"), tmp_path / "nowhere") == pytest.approx(everything, rel=0.2)
