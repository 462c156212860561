"""The command `latency`: what finished runs' networks cost, dense, masked and compacted."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from px_seg.deploy.latency import Cost, network_costs
from px_seg.errors import InputError, one_line
from px_seg.files import user_path, write_text
from px_seg.models import built_as, is_compacted, load_model
from px_seg.pruning.compaction.shrinking import shrink

LATENCY = """Measure what the networks of finished runs cost: dense, with zeros for pruned weights, and compacted.

    px_seg latency runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg latency RUN RUN --batch_size 8 --size 512 --threads 1 --output latency.json

All networks run in turns in one process; what is measured is single forward passes in eval mode."""


def measure(argv: Sequence[str]) -> None:
    """Measure the networks of the runs that the words name, and print a table a run.

    Raises InputError for what is no finished run, for flags that make no measurement, and for too little memory.
    """
    asked = _read(argv)
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that torch sees: give --device cpu")
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    runs = {folder: _results(user_path(folder, "the run")) for folder in asked.runs}
    rows: dict[str, Any] = {}
    for folder, results in runs.items():
        networks = {name: network.to(device) for name, network in _networks(Path(folder)).items()}
        side = asked.size or results["data"]["size"]
        try:
            images = torch.randn(asked.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
            costs = network_costs(networks, images, asked.repeats, asked.compile)
        except InputError:
            raise
        except RuntimeError as error:
            raise InputError(
                f"{folder} cannot be measured on {asked.batch_size} images of {side}x{side} pixels: lower --batch_size "
                f"or give another --size ({one_line(error, 160)})"
            ) from error
        rows[folder] = {name: cost._asdict() for name, cost in costs.items()}
        print(_table(folder, asked.batch_size, side, device, costs))
    if asked.output:
        setting = {"batch_size": asked.batch_size, "size": asked.size, "device": device.type, "compile": asked.compile}
        setting |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        write_text(user_path(asked.output, "--output"), json.dumps({"setting": setting, "runs": rows}, indent=2))


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "px_seg latency", description=LATENCY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--batch_size", type=_positive, default=1, help="images in a batch (1)")
    parser.add_argument("--size", type=_positive, help="side of an image in pixels (the run's data.size)")
    parser.add_argument("--repeats", type=_positive, default=30, help="forward passes of each network (30)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where (a GPU, if there is one)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (torch's default)")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _results(folder: Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / "results.json").read_text())
    except OSError:
        raise InputError(f"there is no finished run in {folder}: results.json is missing") from None
    except ValueError:
        raise InputError(f"{folder / 'results.json'} is damaged") from None


def _networks(folder: Path) -> dict[str, nn.Module]:
    """The network of a run as it was dense, as it is, and compacted."""
    saved = load_model(folder)
    if is_compacted(folder):
        return {"dense": built_as(folder), "compacted": saved}
    return {"dense": built_as(folder), "masked": saved, "compacted": shrink(saved).model}


def _table(folder: str, batch_size: int, side: int, device: torch.device, costs: Mapping[str, Cost]) -> str:
    dense = costs["dense"].milliseconds
    lines = [
        f"{folder}: {batch_size} images of {side}x{side}, {device.type}, {torch.get_num_threads()} threads",
        f"  {'':<10} {'parameters':>12} {'GFLOPs':>8} {'ms':>9} {'quartiles':>17} {'of dense':>9} {'peak MiB':>9}",
    ]
    for name, cost in costs.items():
        quartiles = f"{cost.quartiles[0]:.1f} to {cost.quartiles[1]:.1f}"
        lines.append(
            f"  {name:<10} {cost.parameters:>12,} {cost.flops / 1e9:>8.2f} {cost.milliseconds:>9.1f} {quartiles:>17} "
            f"{cost.milliseconds / dense:>9.2f} {cost.peak_bytes / 2**20:>9.0f}"
        )
    return "\n".join(lines)
