"""Sweeps whose runs are stand-ins: they take no time and leave the files that a run leaves."""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from helpers.runs import parsed
from px_seg import Masks, predictions
from px_seg.config import RunConfig
from px_seg.errors import one_line_errors
from px_seg.predictions import Prediction
from px_seg.run.folder import RunFolder
from px_seg.sweep import Request, launchers, run_sweep
from px_seg.sweep.command_line import read
from px_seg.sweep.launchers import LocalLauncher

SMALL = ("--data.train_images", "8", "--data.val_images", "5", "--data.size", "32", "--rounds", "2", "--epochs", "1")
SMALL += ("--batch_size", "4", "--pruning.batches", "1", "--pruning.batch_size", "2")

STAND_IN = """
import json, pathlib, sys, time, yaml
words = sys.argv[1:]
config = yaml.safe_load(pathlib.Path(words[words.index("--config") + 1]).read_text())
folder = pathlib.Path(config["output_dir"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(yaml.safe_dump(config))
with (pathlib.Path(__file__).parent / "runs.txt").open("a") as file:
    file.write(f"{folder.name} {config['method']} {config['sparsity']}\\n")
BODY
(folder / "results.json").write_text(json.dumps({
    "seconds": {"prune": 1.0, "train": 2.0, "evaluate": 3.0}, "miou": 0.5, "processes": 1, "mixed_precision": "no"
}))
"""
"""What stands in for scripts/seg.py: it notes that it ran, does what BODY says, and ends well."""


def request(folder: Path, **changes: object) -> Request:
    asked = {
        "task": "seg",
        "methods": ("px", "random", "dense"),
        "sparsities": (0.8, 0.98),
        "seeds": (0, 1),
        "flags": SMALL,
        "output_dir": folder,
    }
    return Request(**asked | changes)


def stand_in(folder: Path, body: str = "") -> LocalLauncher:
    """What starts stand-ins, two at a time; runs.txt in the folder says which ran."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "seg.py"
    script.write_text(STAND_IN.replace("BODY", body))
    return LocalLauncher([str(script)], jobs=2, gpus=())


def directly(cell, program: Sequence[str], *_: object) -> list[str]:
    """In place of `launchers.command`: without accelerate launch, which takes seconds."""
    words = ["-m" if word == "--module" else word for word in program]
    return [sys.executable, *words, "--config", f"{cell.notes}.yaml"]


class Forked:
    """The sweep of all stand-ins in a folder, in a process of its own.

    Forked off this one: another Python would import torch first, which takes longer than the whole sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        descriptor, self.said = tempfile.mkstemp(dir=folder, suffix=".said")
        self.process = multiprocessing.get_context("fork").Process(target=self._carry_out, args=(descriptor,))
        self.process.start()
        os.close(descriptor)

    def _carry_out(self, descriptor: int) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
        launchers.command = directly
        with one_line_errors("interrupted"):
            run_sweep(request(self.folder / "out"), LocalLauncher([str(self.folder / "seg.py")], jobs=2, gpus=()))

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def said_at_its_end(self) -> str:
        self.process.join(120)
        assert self.status is not None, "the sweep does not end"
        return Path(self.said).read_text()

    @property
    def status(self) -> int | None:
        return self.process.exitcode


def ran(folder: Path) -> list[str]:
    return sorted((folder / "runs.txt").read_text().splitlines()) if (folder / "runs.txt").exists() else []


def finished(root: Path, method: str, sparsity: float, seed: int, score: float, group: str = "", **changes) -> Path:
    """The folder of a run that is finished, as far as a report reads it; the score is the mIoU."""
    config: RunConfig = parsed("--method", method.partition("+")[0], "--sparsity", sparsity, "--seed", seed)
    for key, value in changes.items():
        setattr(config, key, value)
    folder = root / group / method / f"{sparsity:g}" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    densities = {"encoder.conv1.weight": 1.0, "encoder.layer1.weight": 1 - sparsity}
    if sparsity > 0.9:
        densities["encoder.layer1.weight"] = 0.0
    kept = {name: torch.arange(100) < 100 * density for name, density in densities.items()}
    Masks(kept).save(folder / "masks.safetensors")
    shades = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    labels = np.arange(12 * 16, dtype=np.int16).reshape(12, 16) % 3
    predictions.save(folder / "samples.npz", [Prediction(shades, labels, labels)] * 2, ["a", "b", "c"])
    results = {
        "task": "seg",
        "method": config.method,
        "sparsity": sparsity,
        "seed": seed,
        "miou": score,
        "pixel_accuracy": 0.9,
        "backbone_sparsity": sparsity,
        "model_sparsity": sparsity / 2,
        "effective_sparsity": sparsity - 0.05 if sparsity else 0.0,
        "parameters": {"kept": 1000 - int(500 * sparsity), "total": 1000},
        "flops": {"kept": 2000, "total": 4000},
        "checkpoint_bytes": {"file": 8000, "compressed": 5000},
        "seconds": {"prune": 1.0, "train": 2.0, "evaluate": 3.0},
        "data": {"name": "synthetic", "classes": 3, "train": 8, "val": 5, "size": 32, "evaluation": "whole"},
        "encoder": config.encoder,
        "weights": config.weights,
        "epochs": config.epochs,
        "rounds": 100,
        "empty_layers": [name for name, density in densities.items() if density == 0],
        "notes": ["a note with <b>"],
        "device": "cpu",
        "processes": 1,
        "mixed_precision": "no",
        "versions": {"torch": "2.11"},
    }
    RunFolder(folder).results.write_text(json.dumps(results))
    return folder


def asked(*words: object) -> Request:
    return read([str(word) for word in words], "")[0]


def names(cells) -> list[str]:
    return [str(cell.folder) for cell in cells]
