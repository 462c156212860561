"""Checkpoints of a training, through Accelerate: written at intervals, found again, and tied to their launch settings.

Whether a run may be resumed at all is `RunFolder.check`'s; a pruning that was interrupted, `find_masks`'s. Files are
`px_seg.run.checkpoint_files`'s.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils import load as load_pickled
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor

from px_seg.devices import Agreement, broadcast_from_main, main_only
from px_seg.errors import InputError, Stopped, TrainingDiverged, one_line
from px_seg.files import check_room, told_when_full
from px_seg.pruning import Masks
from px_seg.run import checkpoint_files as files
from px_seg.run.training import Position, Prepared
from px_seg.termination import Termination


class Interval(NamedTuple):
    """How much work an interruption may cost: a number of updates, or else of seconds."""

    updates: int | None
    seconds: float

    @classmethod
    def parse(cls, text: str | int) -> "Interval":
        """A number of updates, or of minutes: 50, or 10min. InputError for anything else."""
        minutes = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)min", str(text))
        if minutes and float(minutes[1]) > 0:
            return cls(None, 60 * float(minutes[1]))
        if re.fullmatch(r"\d{1,9}", str(text)) and int(text) > 0:
            return cls(int(text), 0.0)
        raise InputError(f"checkpoint_every takes a number of updates, such as 50, or of minutes, 10min: got {text!r}")


class Saved(NamedTuple):
    """A checkpoint that training goes on from."""

    folder: Path
    position: Position
    """Of this process."""
    known: dict[str, Any]
    """What was saved with it."""

    def weights(self) -> dict[str, Tensor]:
        """The state dict of the model. InputError when it cannot be read."""
        try:
            return load_file(self.folder / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise InputError(_unusable(self.folder, error)) from error


class Checkpoints:
    """The checkpoints of one training at `folder`. All processes find and restore them together."""

    def __init__(
        self, accelerator: Accelerator, folder: Path, say: Callable[[str], object], agreement: Agreement
    ) -> None:
        self.accelerator, self.folder, self.say, self.agreement = accelerator, folder, say, agreement

    def find(self) -> Saved | None:
        """The newest sound checkpoint, or None; damaged ones are set aside, and it is said.

        Raises InputError when it is of another number of processes, gradient accumulation or precision: its schedule
        counts other updates.
        """
        found = broadcast_from_main(self.accelerator, lambda: files.newest(self.folder, self.say))
        if found is None:
            return None
        launch, now = found.record["launch"], launch_settings(self.accelerator)
        if changed := [setting for setting in now if launch.get(setting) != now[setting]]:
            raise InputError(
                f"{found.folder} was written with {changed[0]} {launch.get(changed[0])}, but this launch has "
                f"{now[changed[0]]}: resume with the same accelerate settings"
            )
        own = found.record["positions"][self.accelerator.process_index]
        position = Position(**own | {"losses": tuple(own["losses"]), "rates": tuple(own["rates"])})
        return Saved(found.folder, position, found.record["known"])

    def restore(self, saved: Saved, prepared: Prepared) -> None:
        """Give what Accelerate has prepared the state that was saved. InputError when it does not take it."""
        try:
            self.accelerator.load_state(str(saved.folder))
            if prepared.average is not None:
                load_model(prepared.average, saved.folder / files.AVERAGE)
            # Accelerate goes on where it cannot restore these.
            _check_random_state(saved.folder / f"random_states_{self.accelerator.process_index}.pkl")
        except Exception as error:
            # Whole as it is, it may still be of another version of a library, whose errors are its own.
            raise InputError(_unusable(saved.folder, error)) from error

    def write(self, prepared: Prepared, masks: Masks, position: Position, known: Mapping[str, Any]) -> None:
        """Make the state at `position` the newest checkpoint, once it is all on the disk; `known` is JSON.

        Raises TrainingDiverged when a weight is not finite, RuntimeError when a pruned weight is not 0, and InputError
        when there is no room for it; the former checkpoints are then as they were.
        """
        accelerator, folder = self.accelerator, self.folder
        state = prepared.bare.state_dict()
        for name, value in state.items():
            if not value.isfinite().all():
                raise TrainingDiverged(f"{name} is no longer finite after epoch {position.epoch}")
        if revived := masks.revived(state):
            raise RuntimeError(f"pruned weights came back to life during epoch {position.epoch}: {revived}")
        what = f"the checkpoint {folder}"
        with told_when_full(folder.parent, what):
            average = prepared.average
            momenta = [value for held in prepared.optimizer.state.values() for value in held.values()]
            parts = (*state.values(), *momenta, *(average.state_dict().values() if average is not None else ()))
            size = sum(part.nbytes for part in parts if isinstance(part, Tensor))

            def make_room() -> None:
                check_room(folder.parent, size, what)
                files.discard(files.fresh(folder))

            main_only(accelerator, make_room)
            accelerator.save_state(str(files.fresh(folder)))
            if average is not None:
                main_only(accelerator, lambda: save_model(average, str(files.fresh(folder) / files.AVERAGE)))
            positions = gather_object([position._asdict()])
            record = {"positions": positions, "launch": launch_settings(accelerator), "known": dict(known)}
            accelerator.wait_for_everyone()
            main_only(accelerator, lambda: files.install(folder, record))


class CheckpointKeeper:
    """The `Keeper` (`px_seg.run.training`) of a training: it writes checkpoints when they are due, and where it is
    told to end it writes one and raises Stopped.

    All processes make one together. `known` is asked what is to be saved with each.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: Interval,
        termination: Termination,
        prepared: Prepared,
        masks: Masks,
        known: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.checkpoints, self.every, self.termination = checkpoints, every, termination
        self.prepared, self.masks, self.known = prepared, masks, known
        self._updates, self._written = 0, time.monotonic()
        self._last: tuple[int, int] | None = None

    def undisturbed(self) -> AbstractContextManager[None]:
        return self.termination.deferred()

    def after_update(self, here: Callable[[], Position]) -> None:
        self._updates += 1
        told = self.termination.told
        due = self.checkpoints.accelerator.is_main_process and self._due()
        # Signals are numbered from 1.
        agreed = self.checkpoints.agreement.highest(_DUE + told if told is not None else _DUE * due)
        if agreed:
            self._write(here())
        if agreed > _DUE:
            raise Stopped(agreed - _DUE)

    def save(self, position: Position) -> None:
        """Write a checkpoint now, unless the last is of there.

        Raises what `Checkpoints.write` does, and then Stopped where any process was told to end.
        """
        if position[:2] != self._last:
            self._write(position)
        stop_together(self.termination, self.checkpoints.agreement)

    def _write(self, position: Position) -> None:
        with self.undisturbed():
            self.checkpoints.write(self.prepared, self.masks, position, self.known())
        self._updates, self._written, self._last = 0, time.monotonic(), position[:2]

    def _due(self) -> bool:
        """By the main process's clock."""
        if self.every.updates is not None:
            return self._updates >= self.every.updates
        return time.monotonic() - self._written >= self.every.seconds


def stop_together(termination: Termination, agreement: Agreement) -> None:
    """Raise Stopped on all processes where any was told to end; called by all."""
    if number := agreement.highest(termination.told or 0):
        raise Stopped(number)


_DUE = 1
"""What a process says after an update when a checkpoint is due; more, by a signal's number, when it is told to end."""


def _check_random_state(path: Path) -> None:
    """Raise ValueError unless the random states are those in the file."""
    saved = load_pickled(path)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    held = saved["numpy_random_seed"], np.random.get_state()
    same = (
        saved["random_state"] == random.getstate()
        and all(np.array_equal(a, b) for a, b in zip(*held, strict=True))
        and torch.equal(saved["torch_manual_seed"], torch.get_rng_state())
        and all(torch.equal(a, b) for a, b in zip(saved.get("torch_cuda_manual_seed", cuda), cuda, strict=True))
    )
    if not same:
        raise ValueError(f"{path.name} holds random states that cannot be restored")


def launch_settings(accelerator: Accelerator) -> dict[str, int | str]:
    """What of a launch optimizer and schedule depend on."""
    return {
        "processes": accelerator.num_processes,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "mixed_precision": accelerator.mixed_precision,
        # Each has a random state of its own.
        "gpus": torch.cuda.device_count(),
    }


def _unusable(folder: Path, error: Exception) -> str:
    return (
        f"the checkpoint {folder} cannot be used ({one_line(error, 120)}): delete it, and --resume goes on from the "
        "one before, or trains again from the masks"
    )
