"""What the networks of finished runs cost, and the file in a run's folder that says so."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from px_seg.deploy.latency import Cost, network_costs
from px_seg.errors import InputError, one_line
from px_seg.files import write_text
from px_seg.models import built_as, is_compacted, load_model
from px_seg.pruning.compaction.shrinking import shrink

FILE = "latency.json"


@dataclass(frozen=True)
class Setting:
    """How runs are measured."""

    batch_size: int = 1
    size: int | None = None
    """Side of an image in pixels; the run's `data.size` where None."""
    repeats: int = 30
    device: str = "cpu"
    compiled: bool = False


def check_finished(folder: Path) -> None:
    """Raise InputError unless the folder is that of a finished run."""
    _results(folder)


def measure_run(folder: Path, setting: Setting) -> tuple[int, dict[str, Cost]]:
    """The side of the images, and the costs of the run's networks: as dense, as it is, and compacted.

    Of a dense run its network alone. Raises InputError for what is no finished run, and for images that the network
    does not take or the machine does not hold.
    """
    results = _results(folder)
    device = torch.device(setting.device)
    networks = {name: network.to(device) for name, network in _networks(folder, results).items()}
    side = setting.size or results["data"]["size"]
    try:
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(setting.batch_size, 3, side, side, generator=draws).to(device)
        return side, network_costs(networks, images, setting.repeats, setting.compiled)
    except InputError:
        raise
    except RuntimeError as error:
        raise InputError(
            f"{folder} cannot be measured on {setting.batch_size} images of {side}x{side} pixels: lower --batch_size "
            f"or give another --size ({one_line(error, 160)})"
        ) from error


def measure_missing(folders: Sequence[Path], say: Callable[[str], Any] = print) -> None:
    """Measure the runs that were not measured yet, one image each, and write what is found into their folders."""
    setting = Setting(device="cuda" if torch.cuda.is_available() else "cpu")
    left = [folder for folder in folders if read_measured(folder) is None]
    for number, folder in enumerate(left, 1):
        _, costs = measure_run(folder, setting)
        save_measured(folder, setting, costs)
        dense, small = costs["dense"].milliseconds, list(costs.values())[-1].milliseconds
        say(f"measured {number} of {len(left)}: {folder}: {small:.1f} ms, dense {dense:.1f} ms")


def save_measured(folder: Path, setting: Setting, costs: Mapping[str, Cost]) -> None:
    """Write latency.json into the run's folder, in place of an earlier one."""
    write_text(folder / FILE, json.dumps({"setting": described(setting), "networks": plain(costs)}, indent=2) + "\n")


def read_measured(folder: Path) -> Mapping[str, Any] | None:
    """What latency.json in the run's folder says; None where there is none. InputError where it is damaged."""
    file = folder / FILE
    if not file.exists():
        return None
    damaged = InputError(f"{file} is damaged: delete it, and measure the run again")
    try:
        held = json.loads(file.read_text())
        for cost in [held["setting"], *held["networks"].values()]:
            dict(cost)
        for cost in held["networks"].values():
            if not all(float(cost[key]) > 0 for key in ("milliseconds", "peak_bytes", "parameters", "flops")):
                raise damaged
        if "dense" not in held["networks"]:
            raise damaged
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    return held


def described(setting: Setting) -> dict[str, Any]:
    """The setting with what else decides the numbers, for a file."""
    threads = {"threads": torch.get_num_threads()} if setting.device == "cpu" else {}
    return {**asdict(setting), **threads, "torch": torch.__version__}


def plain(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The costs as numbers by name."""
    return {name: cost._asdict() for name, cost in costs.items()}


def _results(folder: Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / "results.json").read_text())
    except OSError:
        raise InputError(f"there is no finished run in {folder}: results.json is missing") from None
    except ValueError:
        raise InputError(f"{folder / 'results.json'} is damaged") from None


def _networks(folder: Path, results: Mapping[str, Any]) -> dict[str, nn.Module]:
    saved = load_model(folder)
    if is_compacted(folder):
        return {"dense": built_as(folder), "compacted": saved}
    if not results["sparsity"]:
        return {"dense": saved}
    return {"dense": built_as(folder), "masked": saved, "compacted": shrink(saved).model}
