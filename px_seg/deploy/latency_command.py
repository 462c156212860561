"""The command `latency`: what finished runs' networks cost, dense, masked and compacted."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from px_seg.deploy.arguments import (
    Parser,
    add_device,
    device_asked_for,
    from_one_on,
    from_three_on,
    output_file,
    write_output,
)
from px_seg.deploy.runs import (
    Measured,
    Setting,
    check_finished,
    described,
    images_in,
    measure_run,
    plain,
    save_measured,
)
from px_seg.files import user_path

LATENCY = """Measure what the networks of finished runs cost: dense, with zeros for pruned weights, and compacted.

    px_seg latency runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg latency RUN RUN --batch_size 8 --size 512 --threads 1 --output latency.json

All networks run in turns in one process; what is measured is single forward passes in eval mode. What px_seg export
wrote to a run's folder is measured beside them: on a CPU all files, on a GPU the ONNX file, by onnxruntime's CUDA and,
where it is installed, by TensorRT."""


def measure(argv: Sequence[str]) -> None:
    """Measure the networks of the runs that the words name, and print a table a run.

    Raises InputError for what is no finished run, for flags that make no measurement, and for too little memory.
    """
    asked = _read(argv)
    device = device_asked_for(asked)
    setting = Setting(asked.batch_size, asked.size, asked.repeats, device, asked.compile)
    folders = {text: user_path(text, "the run") for text in asked.runs}
    for folder in folders.values():
        check_finished(folder)
    output = output_file(asked)
    rows: dict[str, Any] = {}
    for text, folder in folders.items():
        measured = measure_run(folder, setting)
        if asked.save:
            save_measured(folder, measured)
        rows[text] = {"size": measured.setting.size, **plain(measured)}
        print(_table(text, measured))
        for problem in measured.left:
            print(f"  left out: {problem}")
    if output is not None:
        write_output(output, {"setting": described(setting), "runs": rows})


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg latency", LATENCY)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--batch_size", type=from_one_on, default=1, help="images in a batch (1)")
    parser.add_argument("--size", type=from_one_on, help="side of an image in pixels (the run's data.size)")
    parser.add_argument("--repeats", type=from_three_on, default=30, help="forward passes of each network (30)")
    add_device(parser)
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--save", action="store_true", help="write latency.json into each run's folder, for reports")
    parser.add_argument("--output", metavar="FILE", help="write the numbers to this JSON file")
    return parser.parse_args(argv)


def _table(folder: str, measured: Measured) -> str:
    setting, costs = measured.setting, measured.networks
    dense, threads = costs["dense"].milliseconds, torch.get_num_threads()
    where = setting.device if setting.device != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    lines = [
        f"{folder}: {images_in(setting.batch_size, setting.size)}, {where}",
        f"  {'':<10} {'parameters':>12} {'GFLOPs':>8} {'ms':>9} {'quartiles':>17} {'of dense':>9} {'peak MiB':>9}",
    ]
    for name, cost in costs.items():
        quartiles = f"{cost.quartiles[0]:.1f} to {cost.quartiles[1]:.1f}"
        lines.append(
            f"  {name:<10} {cost.parameters:>12,} {cost.flops / 1e9:>8.2f} {cost.milliseconds:>9.1f} {quartiles:>17} "
            f"{cost.milliseconds / dense:>9.2f} {cost.peak_bytes / 2**20:>9.0f}"
        )
    for name, one in measured.files.items():
        quartiles, size = f"{one.quartiles[0]:.1f} to {one.quartiles[1]:.1f}", f"{one.bytes / 1e6:.2f} MB"
        lines.append(
            f"  {name:<10} {size:>12} {one.milliseconds:>18.1f} {quartiles:>17} {one.milliseconds / dense:>9.2f}"
        )
    return "\n".join(lines)
