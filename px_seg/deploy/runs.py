"""What the networks of finished runs cost, and the file in a run's folder that says so."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from px_seg.deploy.card import read_card, read_results
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.exported.network import FILES
from px_seg.deploy.exported.onnx_file import is_listed
from px_seg.deploy.latency import Cost, FileCost, costs_in_turns
from px_seg.errors import InputError, one_line
from px_seg.files import parse_json, write_text
from px_seg.models import built_as, channels_of, is_compacted, load_model
from px_seg.pruning.compaction.shrinking import shrink
from px_seg.run.folder import COSTS, EXPORTED


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
    read_results(folder)


class Measured(NamedTuple):
    """What a run's networks cost."""

    setting: Setting
    """Its size known."""
    networks: Mapping[str, Cost]
    """As dense, as it is, and compacted; of a dense run its network alone."""
    files: Mapping[str, FileCost]
    """What was exported, by runtime."""
    left: Sequence[str] = ()
    """Why exported files were left out."""


def measure_run(folder: Path, setting: Setting) -> Measured:
    """The costs of the run's networks, and without torch.compile of the files that were exported of it.

    Raises InputError for what is no finished run, and for images that the network does not take or the machine does
    not hold.
    """
    results = read_results(folder)
    device, own = torch.device(setting.device), int(results["data"]["size"])
    networks = {name: network.to(device) for name, network in _networks(folder, results, own).items()}
    side = setting.size or own
    setting = replace(setting, size=side)
    beside, left = ({}, []) if setting.compiled else ExportFolder(folder / EXPORTED).opened(setting.device)
    for kind in [kind for kind, one in beside.items() if side % one.card.multiple]:
        left.append(f"{beside.pop(kind).file} does not take images of {side} pixels")
    try:
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(setting.batch_size, read_card(folder).channels, side, side, generator=draws).to(device)
        costs = costs_in_turns(networks, beside, images, setting.repeats, setting.compiled)
        return Measured(setting, *costs, left)
    except InputError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        # Libraries refuse a size with any of these.
        raise InputError(
            f"{folder} cannot be measured on {images_in(setting.batch_size, side)}: give another --size or a lower "
            f"--batch_size ({one_line(error, 160)})"
        ) from error


def measure_missing(folders: Sequence[Path], say: Callable[[str], Any] = print) -> None:
    """Measure the runs that were not measured yet, one image each, and write what is found into their folders.

    Those of which something was exported since that can be measured here are measured anew.

    Raises InputError for those that cannot be measured, once the others are.
    """
    setting = Setting(device="cuda" if torch.cuda.is_available() else "cpu")
    left = [folder for folder in folders if not _whole(folder, setting)]
    failed: list[InputError] = []
    for number, folder in enumerate(left, 1):
        try:
            measured = measure_run(folder, setting)
            save_measured(folder, measured)
        except InputError as error:
            failed.append(error)
            continue
        for problem in measured.left:
            say(f"left out: {problem}")
        costs = measured.networks
        dense, small = costs["dense"].milliseconds, list(costs.values())[-1].milliseconds
        say(f"measured {number} of {len(left)}: {folder}: {small:.1f} ms, dense {dense:.1f} ms")
    if failed:
        raise InputError(f"{len(failed)} of {len(left)} runs were not measured; the first: {failed[0]}")


def _whole(folder: Path, setting: Setting) -> bool:
    """Whether the run was measured, with what was exported of it, as that is now, where it can be measured."""
    held = read_measured(folder)
    if held is None:
        return False
    exported = ExportFolder(folder / EXPORTED)
    kinds = set(exported.described())
    if setting.device != "cpu":
        kinds &= {"onnx"} if is_listed("cuda") else set()
    when = (folder / COSTS).stat().st_mtime
    return all(
        kind in held.get("exported", {}) and (exported.path / FILES[kind]).stat().st_mtime <= when for kind in kinds
    )


def save_measured(folder: Path, measured: Measured) -> None:
    """Write latency.json into the run's folder, in place of an earlier one. Raises InputError where it cannot be."""
    held = {"setting": described(measured.setting), **plain(measured)}
    try:
        write_text(folder / COSTS, json.dumps(held, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder / COSTS} cannot be written: {error.strerror}") from None


def read_measured(folder: Path) -> Mapping[str, Any] | None:
    """What latency.json in the run's folder says; None where there is none. InputError where it is damaged."""
    file = folder / COSTS
    if not file.exists():
        return None
    damaged = InputError(f"{file} is damaged: delete it, and measure the run again")
    try:
        held = parse_json(file.read_text())
        for cost in [held["setting"], *held["networks"].values()]:
            dict(cost)
        for cost in held["networks"].values():
            numbers = [*cost["quartiles"], *(cost[key] for key in ("milliseconds", "parameters", "flops"))]
            if len(numbers) != 5 or not all(float(number) > 0 for number in numbers):
                raise damaged
        for cost in held.get("exported", {}).values():
            numbers = [*cost["quartiles"], cost["milliseconds"], cost["bytes"]]
            if len(numbers) != 4 or not all(float(number) > 0 for number in numbers):
                raise damaged
        if "dense" not in held["networks"]:
            raise damaged
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    return held


def images_in(batch_size: int | None, size: int | None) -> str:
    """What a network is given at once, in words."""
    many = "1 image" if batch_size == 1 else f"{batch_size} images"
    return f"{many} of {size}x{size} pixels"


def described(setting: Setting) -> dict[str, Any]:
    """The setting with what else decides the numbers, for a file."""
    if setting.device == "cpu":
        where = {"processor": _processor(), "threads": torch.get_num_threads()}
    else:
        where = {"processor": torch.cuda.get_device_name(setting.device)}
    return {**asdict(setting), **where, "torch": torch.__version__}


def _processor() -> str:
    """Its name; where no system call tells it, that of its family."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def plain(measured: Measured) -> dict[str, Any]:
    """The costs as numbers by name; `exported` only where something was."""
    networks = {name: cost._asdict() for name, cost in measured.networks.items()}
    files = {name: cost._asdict() for name, cost in measured.files.items()}
    return {"networks": networks, **({"exported": files} if files else {})}


def _networks(folder: Path, results: Mapping[str, Any], side: int) -> dict[str, nn.Module]:
    saved = load_model(folder)
    if is_compacted(folder):
        return {"dense": built_as(folder), "compacted": saved}
    if not float(results["sparsity"]):
        return {"dense": saved}
    small = shrink(saved, shape=(channels_of(saved), side, side)).model
    return {"dense": built_as(folder), "masked": saved, "compacted": small}
