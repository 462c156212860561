"""The folder a run writes to."""

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.config import RunConfig, SegmentationConfig, flat, with_defaults
from px_seg.data.normalisation import IMAGENET
from px_seg.errors import InputError, Taken
from px_seg.files import Lock, delete_known, flush_tree, parse_json, read_yaml, replacing, sweep_up, write_text
from px_seg.models import MODEL_FILES, normalisation_of
from px_seg.run.checkpoint_files import damaged, discard, forget

TRACKED = "px_seg"
"""The project name under which trackers log, and the folder that TensorBoard's files go to."""

COSTS = "latency.json"
"""The file that says what the run's networks cost."""

EXPORTED = "export"
"""The folder of the run's network in files for other runtimes."""

EXPORTED_WHOLE = "export.whole"
"""The same of a network that was not compacted for it."""

EXPORTED_BEST, EXPORTED_BEST_WHOLE = "export.best", "export.best.whole"
"""The same of the network of the best epoch."""

COMPACT_MASKS = "masks.compact.safetensors"
"""The masks of a network that was made smaller."""

EXPORT_FILES = ("model.onnx", "model.xml", "model.bin", "model.int8.xml", "model.int8.bin", "export.json")
"""What is exported of it."""

COUNTS = "confusion.csv"
"""The file of how often each class was taken for each."""

PICTURES = ("curves.png", "masks.png", "confusion.png", COUNTS, "samples.png", "samples.npz")
"""What is drawn and counted of a run, but for the samples of further lists."""

BEST_EPOCH = "epoch.json"
"""The file that says which epoch the network beside it is of."""

OPERATIONAL = (
    *("output_dir", "overwrite", "resume", "threads", "tracker", "preservation_images", "evaluate_every"),
    *("checkpoint_every", "keep_best", "channels_last"),
    *("data.root", "data.download", "data.workers", "data.cache", "data.images", "data.masks"),
)
"""Settings that change how a run is carried out, not its results."""


OF_EVERY_RUN = {key.name for key in fields(RunConfig) if key.default is MISSING and key.default_factory is MISSING}
"""The keys that the configuration of a run has, of whatever version."""


class State(NamedTuple):
    """How far a run has come."""

    begun: bool
    """Whether it was stopped and can be resumed."""
    results: dict[str, Any] | None
    """What results.json holds once it is complete."""


class RunFolder:
    """The files of one run: config.yaml, masks.safetensors, checkpoint/, metrics.jsonl, results.json, model/.

    From `open` to `release` it is this process's: no other opens it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Lock | None = None
        self.lock = path / ".lock"
        self.config = path / "config.yaml"
        self.masks = path / "masks.safetensors"
        self.partial = path / "masks.partial.safetensors"
        self.compact_masks = path / COMPACT_MASKS
        self.costs = path / COSTS
        self.checkpoint = path / "checkpoint"
        self.pruning_checkpoint = path / "checkpoint.pruning"
        self.begun = path / "begun.json"
        self.stopped = path / "stopped.json"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.json"
        self.model = path / "model"
        self.best = path / "best"
        self.best_epoch = self.best / BEST_EPOCH

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
        held = self.path.exists() and any(not self._is_left(path) for path in self.path.iterdir())
        if config.resume:
            self._check_resumable(config)
        elif held and not self._former():
            raise InputError(f"--output_dir {self.path} holds files that do not belong to a run: choose another folder")
        elif held and not config.overwrite:
            raise InputError(
                f"--output_dir {self.path} already holds a run: choose another folder, continue that run "
                "with --resume, or replace it with --overwrite"
            )

    def _is_left(self, path: Path) -> bool:
        """Whether a file is what a process that was killed has left: its lock, or half of a file."""
        return path == self.lock or re.fullmatch(r".+\.[0-9a-f]{8}\.new", path.name) is not None

    def check_free(self) -> None:
        """Raise Taken, naming the process, while another one carries out a run here."""
        try:
            holder = Lock.holder(self.lock)
        except OSError as error:
            raise InputError(f"--output_dir {self.path} cannot be written: {error.strerror}") from None
        if holder is not None:
            raise Taken(_held_by(self.path, holder))

    def open(self, config: RunConfig, launch: Mapping[str, Any], data: str) -> None:
        """Take the folder, delete what a run to be overwritten left, and write what the run began with.

        `launch` is how the run was launched, `data` the fingerprint of its data. Raises InputError as `check` and
        `check_free` do, for what has come about since, and where a run to be resumed began with other data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock.take(self.lock)
            if self._lock is None:
                raise Taken(_held_by(self.path, Lock.holder(self.lock) or "a process that has just ended"))
            self.check(config)
            if linked := next((path for path in (*self._files(), self.model, self.best) if path.is_symlink()), None):
                raise InputError(f"{linked} is a link, and would be written through: replace it by what it leads to")
            if config.overwrite:
                self.clear()
            self._sweep_up()
            self.stopped.unlink(missing_ok=True)
            if config.resume:
                self._check_data(config, data)
            else:
                write_text(self.config, replace(config, overwrite=False, resume=False).to_yaml())
            # Where training has begun, the launch is that of its checkpoints, which is held against this one.
            if not self.checkpoint.exists():
                write_text(self.begun, json.dumps({"launch": dict(launch), "data": data, "root": config.data.root}))
        except OSError as error:
            raise InputError(f"--output_dir {self.path} cannot be written: {error.strerror}") from None

    def began_with(self) -> dict[str, Any]:
        """`launch`, `data` and `root` of the run; empty for one of an earlier version. InputError when damaged."""
        try:
            held = parse_json(self.begun.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            held = None
        if not isinstance(held, dict) or not isinstance(held.get("launch"), dict) or not held.get("data"):
            raise InputError(
                f"{self.begun} is damaged, so nothing says that the data is still the same: see that it is, delete the "
                "file, and go on"
            )
        return held

    def _check_data(self, config: RunConfig, data: str) -> None:
        began = self.began_with()
        if began and began["data"] != data:
            raise InputError(
                f"the run in {self.path} began with other data, at {began.get('root')}: the files at "
                f"{config.data.root} differ in names, sizes or number; give its data with --data.root, or start again "
                "with --overwrite"
            )

    @property
    def opened(self) -> bool:
        """Whether it is this process's."""
        return self._lock is not None

    def release(self) -> None:
        """Let others have the folder, if it was taken."""
        if self._lock is not None:
            self.lock.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _former(self) -> dict[str, Any]:
        """The configuration that the folder holds; empty when there is none, or not a run's."""
        try:
            held = read_yaml(self.config, "the configuration")
        except InputError:
            return {}
        return held if isinstance(held, dict) and held.keys() >= OF_EVERY_RUN else {}

    def finished(self, config: RunConfig) -> dict[str, Any] | None:
        """What results.json holds, if the run is complete.

        Raises InputError when it is one of another configuration, when its images were normalised otherwise than its
        weights ask for now, and when its files are damaged.
        """
        if not self.results.is_file():
            return None
        self._check_same(config)
        try:
            results = parse_json(self.results.read_text())
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

    def _files(self) -> tuple[Path, ...]:
        files = (self.config, self.masks, self.partial, self.compact_masks, self.metrics, self.results, self.costs)
        return (*files, self.begun, self.stopped)

    def _sweep_up(self) -> None:
        """Delete what a run that was killed while it wrote a file has left beside it."""
        for path in self._files():
            for fresh in self.path.glob(f"{path.name}.*.new"):
                if self._is_left(fresh):
                    fresh.unlink()
        for folder in (self.model, self.best):
            sweep_up(folder, MODEL_FILES)

    def clear(self) -> None:
        """Delete what a run writes, if the folder holds one, and nothing else that may be in it."""
        if not self._former():
            return
        drawn = [self.path / name for name in PICTURES]
        for picture in [*drawn, *self.path.glob("samples_*.png")]:
            picture.unlink(missing_ok=True)
        delete_known(self.model, MODEL_FILES)
        self.drop_best()
        for name in (EXPORTED, EXPORTED_WHOLE, EXPORTED_BEST, EXPORTED_BEST_WHOLE):
            sweep_up(self.path / name, EXPORT_FILES)
            delete_known(self.path / name, EXPORT_FILES)
        shutil.rmtree(self.path / TRACKED, ignore_errors=True)
        for checkpoint in (self.checkpoint, self.pruning_checkpoint):
            forget(checkpoint)
            for place in damaged(checkpoint):
                discard(place)
        # The configuration is the last to go: without it nothing says that what is left is a run's.
        for path in reversed(self._files()):
            path.unlink(missing_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, as far as they can be read: a run killed while it wrote leaves half of one."""
        lines: list[dict[str, Any]] = []
        try:
            for text in self.metrics.read_text().splitlines():
                line = parse_json(text)
                if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                    break
                lines.append(line)
        except (OSError, ValueError):
            # What cannot be read was not logged: the epoch is evaluated again.
            pass
        return lines

    def rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make metrics.jsonl these lines."""
        write_text(self.metrics, "".join(f"{json.dumps(line)}\n" for line in lines))

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; it is on the disk at return."""
        with self.metrics.open("a") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())

    def save_counts(self, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
        """Write how often each class, a row, was taken for each, a column."""
        with replacing(self.path / COUNTS) as fresh, fresh.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["true", *classes])
            writer.writerows([name, *row] for name, row in zip(classes, counts, strict=True))

    def note_best(self, epoch: int) -> None:
        """Say which epoch the network in `best` is of, once it is there."""
        flush_tree(self.best)
        write_text(self.best_epoch, json.dumps({"epoch": epoch}))

    def epoch_kept(self) -> int | None:
        """Which epoch the network in `best` is of; None where there is none, or half of one."""
        try:
            epoch = parse_json(self.best_epoch.read_text())["epoch"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return epoch if isinstance(epoch, int) else None

    def drop_best(self) -> None:
        """Delete the network in `best`, if there is one."""
        delete_known(self.best, (*MODEL_FILES, BEST_EPOCH))

    def note_stop(self, cause: str) -> None:
        """Leave word, in a folder that is this run's, that the run was told to end and is to be continued."""
        if self._lock is not None:
            # Where the disk is full, the exit status has to do.
            with suppress(OSError):
                write_text(self.stopped, json.dumps({"by": cause}))

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which marks the run as complete, and drop the checkpoints.

        The model is on the disk before.
        """
        flush_tree(self.model)
        write_text(self.results, json.dumps(results, indent=2))
        self.drop_pruning()
        forget(self.checkpoint)

    def drop_pruning(self) -> None:
        """Delete what a pruning that was interrupted goes on from, once its masks are there."""
        self.partial.unlink(missing_ok=True)
        forget(self.pruning_checkpoint)


def _held_by(path: Path, holder: str) -> str:
    return f"a run is under way in {path} ({holder}): wait for it or end it"


def default_folder(task: str, config: RunConfig) -> Path:
    """runs/seg/synthetic/resnet18/px/0.8/seed0, for example.

    resnet50-mocov2 for a backbone that starts from weights; px-erk-shuffled for what is not px by itself, and
    px-from-ticket for masks of the run in a folder ticket.
    """
    data, encoder = config.data.name, config.encoder.replace("/", "-")
    if config.weights != "none":
        encoder += f"-{_stem(config.weights)}".replace(":", "-")
    if isinstance(config, SegmentationConfig) and config.architecture != SegmentationConfig.architecture:
        encoder = f"{config.architecture}-{encoder}"
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
