"""Runs in this process and in processes of their own, and the small data that they take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from px_seg.command_line import parse
from px_seg.data.palette import voc_colours
from px_seg.models import weights_in
from px_seg.run.pipeline import run
from px_seg.tasks import Classification, Segmentation, Task, presets

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
CONFIGS = REPOSITORY / "configs"

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
"""Two processes; torchrun asks the system for a port that is free."""


def parsed(*flags: object, task: type[Task] = Segmentation):
    """The configuration that these flags ask for."""
    return parse(task.config_type, [str(flag) for flag in flags], presets(task), "")


def go(*flags: object, task: type[Task] = Segmentation) -> dict:
    """What results.json holds after the run that these flags ask for."""
    return run(task, parsed(*flags, task=task))


def classify(*flags: object) -> dict:
    return go(*flags, task=Classification)


def started(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """A Python process of its own, at its end."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


def script(
    *flags: object, name: str = "seg", launcher: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess:
    # Of itself a run takes every core, which the other tests are on.
    one = ("--threads", 1) if name in ("seg", "cls", "transfer") else ()
    return started(*launcher, REPOSITORY / "scripts" / f"{name}.py", *one, *flags, **environment)


def worker(name: str, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """The program of that name in this folder, as two processes."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = started(*TWO, "-m", f"helpers.{name}", *words, PYTHONPATH=path, **environment)
    assert done.returncode == 0, done.stderr
    return done


def lines(folder: Path) -> list[dict]:
    """What a run logged, line by line."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_weights(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same model, bit for bit."""
    one, other = (load_file(weights_in(folder / "model")) for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def make_voc(root: Path, train: int = 8, val: int = 4) -> Path:
    """A tree as VOC2012's: images of eight sizes that show their classes' colours through noise."""
    rng = np.random.default_rng(0)
    tree = root / "VOCdevkit" / "VOC2012"
    lists = tree / "ImageSets" / "Segmentation"
    for folder in (tree / "JPEGImages", tree / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    for split, count in {"train": train, "val": val}.items():
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            kind = number % 8
            height, width = 50 + 7 * kind, 90 - 5 * kind
            noise = rng.integers(0, 64, (height, width, 3), dtype=np.uint8)
            mask = np.zeros((height, width), np.uint8)
            mask[10:30, 10:40] = 1 + kind
            mask[10, 10:40] = 255
            image = noise + voc_colours()[mask] // 4 * 3
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


def tiny_segmentation(target: Path, **settings: object) -> Path:
    """A configuration of a segmentation run that takes a second or two."""
    data = {"train_images": 8, "val_images": 5, "size": 32}
    short = {"rounds": 2, "epochs": 1, "batch_size": 4}
    preset = CONFIGS / "seg" / "synthetic.yaml"
    return smaller(preset, target, data, {"batches": 1, "batch_size": 2}, **short, **settings)


def tiny_classification(target: Path) -> Path:
    """A configuration of a classification run that takes a second."""
    data = {"train_images": 30, "val_images": 20, "size": 32}
    short = {"rounds": 2, "epochs": 1, "batch_size": 10, "encoder": "resnet20"}
    preset = CONFIGS / "cls" / "synthetic.yaml"
    return smaller(preset, target, data, {"batches": 1, "batch_size": 15}, **short)
