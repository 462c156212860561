"""What only GPUs show, as checks that pass or fail, each within half a minute.

Runs are small ones on synthetic images, whose network has no dropout, so that its losses can be compared:

    python -m px_seg.benchmark.gpu seg FLAGS...
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from safetensors.torch import load_file
from torch import nn

from px_seg.analysis.mask_agreement import agreement
from px_seg.command_line import parse
from px_seg.devices import leave_group
from px_seg.errors import InputError, one_line, one_line_errors
from px_seg.flags import Parser
from px_seg.models import load_model, weights_in
from px_seg.pruning import Masks, Random, prune
from px_seg.pruning.compaction.shrinking import compact
from px_seg.pruning.modes import arithmetic
from px_seg.run.pipeline import run
from px_seg.tasks import Segmentation, presets
from px_seg.termination import Termination

PRUNED = ("--method", "px", "--rounds", "3", "--pruning.batches", "2", "--pruning.batch_size", "4")
"""Flags of runs that find their own masks."""

FLAGS = (
    *("--epochs", "3"),
    *("--data.size", "64", "--data.train_images", "64", "--data.val_images", "9", "--data.workers", "2"),
    *("--freeze_bn", "--batch_size", "8", "--optimizer.backbone_lr", "0.01", "--optimizer.head_lr", "0.01"),
)
"""Of all runs, of 24 updates of eight images."""

Process = subprocess.Popen[bytes]

LONGEST = 120.0
"""Seconds after which a run is taken to hang."""

PATIENCE = 60.0
"""Seconds after the death of a process in which the others are to have ended."""


class Undropped(Segmentation):
    """The same network for every launch: each process draws its own numbers for dropout."""

    def build_model(self) -> Any:
        model = super().build_model()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model


@dataclass(frozen=True)
class Machine:
    """Where the runs go."""

    folder: Path
    gpus: int
    """That are there; 0 for a rehearsal on the CPU, with bf16 in place of fp16 and gloo in place of NCCL."""

    def command(self, name: str, *flags: object, precision: str = "no", processes: int = 1) -> list[str]:
        """How a run is started, whose folder is called so."""
        pruned = () if "--masks" in flags else PRUNED
        asked = ["seg", *pruned, *FLAGS, *map(str, flags), "--output_dir", str(self.folder / name)]
        used = precision if self.gpus else precision.replace("fp16", "bf16")
        # Not by accelerate launch, which reads a user's own settings and passes no signal on.
        setting = ["env", f"ACCELERATE_USE_CPU={str(not self.gpus).lower()}", f"ACCELERATE_MIXED_PRECISION={used}"]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launch = several if processes > 1 else []
        return [*setting, sys.executable, *launch, "-m", "px_seg.benchmark.gpu", *asked]

    @contextmanager
    def started(self, name: str, *flags: object, precision: str = "no", processes: int = 1) -> Iterator[Process]:
        """A run under way; nothing of it is left after the context."""
        with self.log(name).open("a") as log:
            words = self.command(name, *flags, precision=precision, processes=processes)
            process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        below = psutil.Process(process.pid)
        others: list[psutil.Process] = []
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                others = below.children(recursive=True)
            for one in (below, *others):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()

    def run(self, name: str, *flags: object, precision: str = "no", processes: int = 1) -> dict[str, Any]:
        """results.json of a run, which is carried out unless it was."""
        file = self.folder / name / "results.json"
        if not file.exists():
            with self.started(name, *flags, precision=precision, processes=processes) as process:
                status = process.wait(LONGEST)
            _require(status == 0, f"the run ended with status {status}: see {self.log(name)}")
        return json.loads(file.read_text())

    def log(self, name: str) -> Path:
        """What a run says."""
        return self.folder / f"{name}.log"

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What a run logged of its epochs."""
        file = self.folder / name / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def cut_short(self, name: str, number: signal.Signals, *flags: object, precision: str = "no") -> int:
        """The exit status of a run that gets a signal after its first epoch."""
        with self.started(name, *flags, "--checkpoint_every", "1", precision=precision) as process:
            self.wait_for_an_epoch(name, process)
            os.killpg(process.pid, number)
            return process.wait(PATIENCE)

    def wait_for_an_epoch(self, name: str, process: subprocess.Popen) -> None:
        """Return when a run has logged one. RuntimeError where it ends or takes too long."""
        until = time.monotonic() + LONGEST
        while not self.lines(name):
            _require(process.poll() is None, f"the run ended with status {process.poll()}: see {self.log(name)}")
            _require(time.monotonic() < until, f"no epoch in {LONGEST:.0f} s: see {self.log(name)}")
            time.sleep(0.05)


def check(machine: Machine, say: Callable[[str], object] = print) -> bool:
    """Carry out all checks that the machine allows, a line for each; whether none failed."""
    failed = []
    for name, (gpus, rehearsed, work) in CHECKS.items():
        if machine.gpus < gpus if machine.gpus else not rehearsed:
            say(f"left out  {name}: it takes {gpus} GPUs, and there are {machine.gpus}")
            continue
        started = time.monotonic()
        try:
            found = work(machine)
        except Exception as error:
            failed.append(name)
            found = one_line(error, 300)
        say(f"{'FAIL' if name in failed else 'pass':<8}  {name}: {found} ({time.monotonic() - started:.0f} s)")
    say(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all passed")
    return not failed


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise RuntimeError(otherwise)


def _close(what: str, one: float, other: float, least: float) -> str:
    """What was compared. RuntimeError where two numbers differ by more than a share of the second."""
    text = f"{what} {one:.5g} and {other:.5g}"
    _require(abs(one - other) <= least * max(abs(other), 1e-9), f"{text} differ by more than {least:.2%}")
    return text


def _held(machine: Machine, name: str, precision: str) -> str:
    """That a run was what it was asked to be, and that its pruned weights are 0."""
    results = machine.run(name, precision=precision)
    asked = precision if machine.gpus else precision.replace("fp16", "bf16")
    _require(results["mixed_precision"] == asked, f"it ran in {results['mixed_precision']}, not in {asked}")
    _require((results["device"] == "cpu") == (machine.gpus == 0), f"it ran on {results['device']}")
    folder = machine.folder / name
    masks = Masks.load(folder / "masks.safetensors")
    _require(not masks.revived(load_file(weights_in(folder / "model"))), "pruned weights are not 0")
    _require(results["backbone_sparsity"] == masks.sparsity, "the network is not as sparse as its masks")
    losses = [line["loss"] for line in machine.lines(name)]
    _require(losses[-1] < losses[0], f"the loss does not fall: {losses}")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}, mIoU {results['miou']:.2%}, on {results['device']}"


def _float32(machine: Machine) -> str:
    return _held(machine, "float32", "no")


def _bf16(machine: Machine) -> str:
    return f"{_held(machine, 'bf16', 'bf16')}; {_near(machine, 'bf16', 'float32')}"


def _fp16(machine: Machine) -> str:
    return f"{_held(machine, 'fp16', 'fp16')}; {_near(machine, 'fp16', 'float32')}"


def _near(machine: Machine, name: str, other: str, least: float = 0.1) -> str:
    machine.run(other)
    return _close(
        f"last loss, and in {other},", machine.lines(name)[-1]["loss"], machine.lines(other)[-1]["loss"], least
    )


def _killed(machine: Machine) -> str:
    machine.run("fp16", precision="fp16")
    machine.cut_short("fp16_killed", signal.SIGKILL, precision="fp16")
    saved = machine.folder / "fp16_killed" / "checkpoint"
    _require(saved.is_dir(), "there is no checkpoint")
    _require(not machine.gpus or (saved / "scaler.pt").is_file(), "the checkpoint has no state of the scaler")
    machine.run("fp16_killed", "--checkpoint_every", "1", "--resume", precision="fp16")
    _require(
        [line["epoch"] for line in machine.lines("fp16_killed")] == [1, 2, 3], "an epoch is missing, or twice there"
    )
    return _near(machine, "fp16_killed", "fp16", 0.02)


def _told(machine: Machine) -> str:
    status = machine.cut_short("told", signal.SIGTERM)
    stopped = machine.folder / "told" / "stopped.json"
    _require(stopped.is_file(), f"it ended with status {status}, and stopped.json is not there")
    machine.run("told", "--checkpoint_every", "1", "--resume")
    return f"status {status}; {_near(machine, 'told', 'float32', 0.02)}"


def _as_on_a_cpu(machine: Machine) -> str:
    """PX's masks, and the scores of the network pruned by them, before any training."""
    flags = ("--epochs", "0", "--data.evaluation", "centre_crop")
    ours = machine.run("untrained", *flags)
    beside = Machine(machine.folder, 0)
    theirs = beside.run("untrained_cpu", *flags)
    masks = [Masks.load(machine.folder / name / "masks.safetensors") for name in ("untrained", "untrained_cpu")]
    same = agreement(*masks)
    _require(same > 0.999, f"{same:.4%} of the weights agree")
    scored = _close("pixel accuracy, and on the CPU,", ours["pixel_accuracy"], theirs["pixel_accuracy"], 0.01)
    return f"{same:.4%} of the weights agree; {scored}"


def _compacted(machine: Machine) -> str:
    device = torch.device("cuda" if machine.gpus else "cpu")
    machine.run("float32")
    model = load_model(machine.folder / "float32").to(device)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    masks = prune(model, (), 0.7, Random(), "encoder", granularity="filter")
    masks.apply(model)
    with torch.no_grad(), arithmetic("float32", device):
        expected = model(images)
        found = compact(model, masks, shape=(3, 64, 64))(images)
    error = float((found - expected).abs().max() / expected.abs().max())
    _require(error < 1e-4, f"the outputs differ by {error:.1e}")
    return f"outputs differ by {error:.1e} of the largest"


def _two(machine: Machine) -> str:
    one, results = machine.run("float32"), machine.run("two", "--batch_size", "4", processes=2)
    _require(results["processes"] == 2, f"there were {results['processes']} processes")
    masks = [Masks.load(machine.folder / name / "masks.safetensors") for name in ("two", "float32")]
    same = agreement(*masks)
    _require(same > 0.9999, f"{same:.4%} of the weights agree")
    losses = _close(
        "losses of one and two", machine.lines("float32")[-1]["loss"], machine.lines("two")[-1]["loss"], 0.01
    )
    return f"{losses}; {_close('pixel accuracies', one['pixel_accuracy'], results['pixel_accuracy'], 0.01)}"


def _synchronised(machine: Machine) -> str:
    """BatchNorm of eight images on one, and of four on each of two."""
    flags = ("--freeze_bn", "false", "--masks", machine.folder / "float32" / "masks.safetensors")
    machine.run("float32")
    machine.run("moving_one", *flags)
    machine.run("moving_two", *flags, "--batch_size", "4", "--sync_bn", processes=2)
    return _close("losses", machine.lines("moving_one")[0]["loss"], machine.lines("moving_two")[0]["loss"], 0.02)


def _dies(machine: Machine) -> str:
    """One of two processes is killed, and the other ends, and its launcher."""
    with machine.started("dies", "--batch_size", "4", "--epochs", "1000", processes=2) as process:
        machine.wait_for_an_epoch("dies", process)
        below = psutil.Process(process.pid).children(recursive=True)
        # The first is the process itself, the others load its images.
        min((one for one in below if one.environ().get("RANK") == "1"), key=psutil.Process.create_time).kill()
        started = time.monotonic()
        status = process.wait(PATIENCE)
    _require(status != 0, "the launcher says that all is well")
    return f"all ended in {time.monotonic() - started:.0f} s"


class Check(NamedTuple):
    """One check."""

    gpus: int
    """That it takes."""
    rehearsed: bool
    """Whether a CPU can do the same."""
    work: Callable[[Machine], str]
    """What was found, in words. Raises an exception where it is not as it should be."""


CHECKS = {
    "float32": Check(1, True, _float32),
    "bf16": Check(1, True, _bf16),
    "fp16, its scaler": Check(1, True, _fp16),
    "fp16, killed and resumed": Check(1, True, _killed),
    "told to end, and resumed": Check(1, True, _told),
    "PX and evaluation as on a CPU": Check(1, True, _as_on_a_cpu),
    "compacted": Check(1, True, _compacted),
    "two processes as one": Check(2, True, _two),
    "SyncBatchNorm": Check(2, False, _synchronised),
    "one of two dies": Check(2, True, _dies),
}
"""By name."""


def main(argv: Sequence[str]) -> None:
    """A run without dropout where the first word is seg; otherwise all checks, with status 1 where one has failed."""
    if argv[:1] == ["seg"]:
        termination = Termination()
        with one_line_errors(), termination.listening():
            run(Undropped, parse(Undropped.config_type, argv[1:], presets(Undropped), ""), termination=termination)
            leave_group()
        return
    parser = Parser("bash scripts/gpu_check.sh", "What only GPUs show, line by line, in about five minutes.")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu_check"), help="new folder for the runs and their logs"
    )
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU, as far as it can")
    with one_line_errors():
        asked = parser.parse_args(argv)
        gpus = 0 if asked.rehearse else torch.cuda.device_count()
        if not gpus and not asked.rehearse:
            raise InputError("there is no CUDA GPU here: --rehearse needs none")
        if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
            raise InputError(f"--out {asked.out} is not empty: give a new folder")
        asked.out.mkdir(parents=True, exist_ok=True)
        sys.exit(not check(Machine(asked.out, gpus)))


if __name__ == "__main__":
    main(sys.argv[1:])
