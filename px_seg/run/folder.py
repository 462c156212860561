"""The folder a run writes to."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from px_seg.config import RunConfig, flat, with_defaults
from px_seg.data.normalisation import IMAGENET
from px_seg.errors import InputError
from px_seg.files import flush_tree, write_text
from px_seg.models import normalisation_of

TRACKED = "px_seg"
"""The project name under which trackers log, and the folder that TensorBoard's files go to."""

COSTS = "latency.json"
"""The file that says what the run's networks cost."""

EXPORTED = "export"
"""The folder of the run's network in files for other runtimes."""

EXPORTED_WHOLE = "export.whole"
"""The same of a network that was not compacted for it."""

COMPACT_MASKS = "masks.compact.safetensors"
"""The masks of a network that was made smaller."""

OPERATIONAL = (
    *("output_dir", "overwrite", "resume", "threads", "tracker", "preservation_images", "evaluate_every"),
    *("data.root", "data.download", "data.workers"),
)
"""Settings that change how a run is carried out, not its results."""


class State(NamedTuple):
    """How far a run has come."""

    begun: bool
    """Whether it was stopped and can be resumed."""
    results: dict[str, Any] | None
    """What results.json holds once it is complete."""


class RunFolder:
    """The files of one run: config.yaml, masks.safetensors, checkpoint/, metrics.jsonl, results.json, model/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.masks = path / "masks.safetensors"
        self.partial = path / "masks.partial.safetensors"
        self.compact_masks = path / COMPACT_MASKS
        self.costs = path / COSTS
        self.checkpoint = path / "checkpoint"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.json"
        self.model = path / "model"

    def check(self, config: RunConfig) -> None:
        """See whether the run may be written here, without touching anything.

        Raises InputError when it holds another run and neither `overwrite` nor `resume` says
        what to do, when what it holds is not a run at all, and when a run to be resumed is not
        there, is finished or had another configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output_dir {self.path} is a file, not a folder")
        if config.overwrite and config.resume:
            raise InputError("--overwrite and --resume contradict each other: give one of them")
        held = any(self.path.iterdir()) if self.path.exists() else False
        if config.resume:
            self._check_resumable(config)
        elif held and not self._former():
            raise InputError(f"--output_dir {self.path} holds files that do not belong to a run: choose another folder")
        elif held and not config.overwrite:
            raise InputError(
                f"--output_dir {self.path} already holds a run: choose another folder, continue that run "
                "with --resume, or replace it with --overwrite"
            )

    def open(self, config: RunConfig) -> None:
        """Delete what a run to be overwritten left, make the folder and write the configuration."""
        if config.overwrite and self.path.exists():
            self.clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not config.resume:
                write_text(self.config, replace(config, overwrite=False, resume=False).to_yaml())
        except OSError as error:
            raise InputError(f"--output_dir {self.path} cannot be written: {error.strerror}") from None

    def _former(self) -> dict[str, Any]:
        """The configuration that the folder holds; empty when there is none, or not a run's."""
        try:
            held = yaml.safe_load(self.config.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return held if isinstance(held, dict) and {"sparsity", "method", "data"} <= held.keys() else {}

    def finished(self, config: RunConfig) -> dict[str, Any] | None:
        """What results.json holds, if the run is complete.

        Raises InputError when it is one of another configuration, when its images were normalised otherwise than its
        weights ask for now, and when its files are damaged.
        """
        if not self.results.is_file():
            return None
        self._check_same(config)
        try:
            results = json.loads(self.results.read_text())
        except ValueError:
            results = None
        spent = results.get("seconds") if isinstance(results, dict) else None
        stages = [spent.get(stage) for stage in ("prune", "train", "evaluate")] if isinstance(spent, dict) else [None]
        if not all(isinstance(seconds, int | float) for seconds in stages):
            raise InputError(f"{self.results} is damaged: delete the folder {self.path} and rerun it")
        self._check_normalised(config, results.get("normalisation", IMAGENET.as_plain()))
        return results

    def state(self, config: RunConfig) -> State:
        """How far the run has come.

        Raises InputError when the folder holds one of another configuration, or something that is not a run.
        """
        results = self.finished(config)
        begun = results is None and self.config.is_file()
        if results is None:
            self.check(replace(config, resume=begun))
        return State(begun, results)

    def _check_resumable(self, config: RunConfig) -> None:
        if not self.config.is_file():
            raise InputError(f"there is no run in {self.path} to resume: leave --resume out")
        if self.results.is_file():
            raise InputError(f"the run in {self.path} is finished: there is nothing to resume")
        self._check_same(config)

    def _check_same(self, config: RunConfig) -> None:
        written = self._former()
        if not written:
            raise InputError(f"{self.config} is damaged: delete the folder, or start again with --overwrite")
        former, asked = flat(with_defaults(written, config)), flat(asdict(config))
        keys = {**asked, **former}
        changed = [key for key in keys if former.get(key) != asked.get(key) and key not in OPERATIONAL]
        if changed:
            raise InputError(
                f"the run in {self.path} had another configuration (differs in {', '.join(changed)}): give the "
                "same one, or another --output_dir, or delete that folder"
            )

    def _check_normalised(self, config: RunConfig, had: object) -> None:
        """Runs of before this was written had ImageNet's statistics, whatever their weights."""
        now = normalisation_of(config.encoder, config.weights).as_plain()
        if had != now:
            raise InputError(
                f"the run in {self.path} had its images normalised by {had}, and the weights {config.weights} take "
                f"{now}: delete that folder, or give another --output_dir"
            )

    def clear(self) -> None:
        """Delete what a run writes, if the folder holds one, and nothing else that may be in it."""
        if not self._former():
            return
        for path in (self.config, self.masks, self.partial, self.compact_masks, self.metrics, self.results, self.costs):
            path.unlink(missing_ok=True)
        drawn = [self.path / name for name in ("curves.png", "masks.png", "samples.png", "samples.npz")]
        for picture in [*drawn, *self.path.glob("samples_*.png")]:
            picture.unlink(missing_ok=True)
        for name in ("model", EXPORTED, EXPORTED_WHOLE, "checkpoint", "checkpoint.new", "checkpoint.old", TRACKED):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def history(self, until: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; those after epoch `until` are dropped from the file."""
        if not self.metrics.is_file():
            return []
        lines = []
        for text in self.metrics.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                # A run killed while it wrote leaves half a line; what follows was never logged.
                break
        if until is not None:
            lines = [line for line in lines if line["epoch"] <= until]
            write_text(self.metrics, "".join(f"{json.dumps(line)}\n" for line in lines))
        return lines

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(f"{json.dumps(line)}\n")

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which marks the run as complete, and drop the checkpoint.

        The model is on the disk before.
        """
        flush_tree(self.model)
        write_text(self.results, json.dumps(results, indent=2))
        if self.checkpoint.exists():
            shutil.rmtree(self.checkpoint)


def default_folder(task: str, config: RunConfig) -> Path:
    """runs/seg/synthetic/resnet18/px/0.8/seed0, for example.

    resnet50-mocov2 for a backbone that starts from weights; px-erk-shuffled for what is not px by itself, and
    px-from-ticket for masks of the run in a folder ticket.
    """
    data, encoder = config.data.name, config.encoder.replace("/", "-")
    if config.weights != "none":
        encoder += f"-{_stem(config.weights)}".replace(":", "-")
    changes = [
        config.masks and f"from-{_stem(config.masks)}",
        config.ranking,
        config.pattern and config.pattern.replace(":", "of").replace(" ", "-"),
        config.granularity != "weight" and config.granularity,
        config.shuffle_masks and "shuffled",
        config.reinit and "reinit",
        config.recalibrate != "none" and config.recalibrate,
        config.recalibrate_rounds and "rounds",
        config.compact and "compact",
    ]
    method = "-".join([config.method, *(change for change in changes if change)])
    return Path("runs") / task / data / encoder / method / f"{config.sparsity:g}" / f"seed{config.seed}"


def _stem(path: str) -> str:
    """A name for a file by itself, or for the run that it belongs to."""
    parts = [part for part in Path(path).parts if part not in ("model", "model.safetensors", "masks.safetensors")]
    return Path(parts[-1]).stem if parts else "file"
