"""Runs whose networks' costs are known."""

import json
from pathlib import Path

from px_seg.deploy.card import Card
from px_seg.deploy.latency import Cost
from px_seg.deploy.runs import Measured, Setting, save_measured


def measured(folder: Path, dense: float, small: float, parameters: int, setting: Setting | None = None) -> None:
    """As if the run's dense network had taken that many milliseconds, and its compacted one that many."""
    costs = {
        name: Cost(milliseconds, (milliseconds, milliseconds), 2**20, count, 2000 * count)
        for name, milliseconds, count in (("dense", dense, 1_000_000), ("compacted", small, parameters))
    }
    networks = costs if small != dense else {"dense": costs["dense"]}
    save_measured(folder, Measured(setting or Setting(), networks, {}))


def exported(folder: Path, kind: str, milliseconds: float, size: int, score: float, **also: float) -> None:
    """As if a file of a measured run had that many bytes, taken that many milliseconds and got that mIoU."""
    took(folder, kind, milliseconds, size)
    (folder / "export").mkdir(exist_ok=True)
    name = {"onnx": "model.onnx", "int8": "model.int8.xml"}[kind]
    (folder / "export" / name).touch()
    card = Card("seg", ("a", "b"), None, 32, "resnet18", "px", 0.8)
    scores = {"miou": score, "also": {split: {"miou": own} for split, own in also.items()}}
    files = {kind: {"file": name, "bytes": size, "difference": None, "scores": scores, "calibration": 300}}
    (folder / "export" / "export.json").write_text(json.dumps({"card": json.loads(card.as_text()), "files": files}))


def took(folder: Path, runtime: str, milliseconds: float, size: int) -> None:
    """As if a file of a measured run that has that many bytes had taken that many milliseconds in a runtime."""
    measurement = folder / "latency.json"
    held = json.loads(measurement.read_text())
    cost = {"milliseconds": milliseconds, "quartiles": [milliseconds, milliseconds], "bytes": size}
    held.setdefault("exported", {})[runtime] = cost
    measurement.write_text(json.dumps(held))
