"""Small data and small configurations that several tests share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image

from px_seg.command_line import parse
from px_seg.data.palette import voc_colours
from px_seg.run.pipeline import run
from px_seg.tasks import Segmentation, Task, presets

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"


def parsed(*flags: object, task: type[Task] = Segmentation):
    """The configuration that these flags ask for."""
    return parse(task.config_type, [str(flag) for flag in flags], presets(task), "")


def go(*flags: object, task: type[Task] = Segmentation) -> dict:
    """What results.json holds after the run that these flags ask for."""
    return run(task, parsed(*flags, task=task))


def script(
    *flags: object, name: str = "seg", launcher: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess:
    command = [sys.executable, *launcher, str(REPOSITORY / "scripts" / f"{name}.py"), *map(str, flags)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(autouse=True, scope="session")
def _records_of_their_own(tmp_path_factory: pytest.TempPathFactory):
    """What the tests check, in processes that they start too, is not on record in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PX_SEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC2012 tree of eight training and four validation images of several sizes."""
    return make_voc(tmp_path / "data")


def make_voc(root: Path, train: int = 8, val: int = 4) -> Path:
    rng = np.random.default_rng(0)
    tree = root / "VOCdevkit" / "VOC2012"
    lists = tree / "ImageSets" / "Segmentation"
    for folder in (tree / "JPEGImages", tree / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    for split, count in {"train": train, "val": val}.items():
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            height, width = 50 + 7 * number, 90 - 5 * number
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            mask = np.zeros((height, width), np.uint8)
            mask[10:30, 10:40] = 1 + number
            mask[10, 10:40] = 255
            Image.fromarray(image).save(tree / "JPEGImages" / f"{name}.jpg")
            indexed = Image.fromarray(mask)
            indexed.putpalette(voc_colours().flatten().tolist())
            indexed.save(tree / "SegmentationClass" / f"{name}.png")
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def smaller(preset: Path, target: Path, data: dict, pruning: dict, **settings: object) -> Path:
    """The preset with these settings in it, as a file of its own."""
    content = yaml.safe_load(preset.read_text()) | settings
    content["data"] |= data
    content["pruning"] = pruning
    target.write_text(yaml.safe_dump(content))
    return target


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A configuration of a segmentation run that takes seconds."""
    data = {"train_images": 8, "val_images": 5, "size": 32}
    pruning = {"batches": 1, "batch_size": 2}
    preset = CONFIGS / "seg" / "synthetic.yaml"
    return smaller(preset, tmp_path / "tiny.yaml", data, pruning, rounds=2, epochs=1, batch_size=4)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
