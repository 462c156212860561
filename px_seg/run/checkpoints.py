"""Checkpoints of a training, through Accelerate: written whole, found again, and tied to their launch settings.

Whether a run may be resumed at all is `RunFolder.check`'s; a pruning that was interrupted, `find_masks`'s.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from px_seg.errors import InputError, TrainingDiverged
from px_seg.files import flush, flush_tree
from px_seg.pruning import Masks
from px_seg.run.repairing import Start


def save_checkpoint(
    accelerator: Accelerator, model: nn.Module, masks: Masks, epoch: int, folder: Path, start: Start
) -> None:
    """Replace the checkpoint in `folder` by the state after `epoch`, once it is all on the disk.

    Beside Accelerate's own files it holds progress.json: the epoch, the launch settings
    that the optimizer's and the schedule's state depend on, and what was known before training.

    Raises TrainingDiverged, and leaves the former checkpoint alone, when a weight is not
    finite; RuntimeError when a pruned weight is not 0.
    """
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise TrainingDiverged(f"{name} is no longer finite after epoch {epoch}")
    if revived := masks.revived(model.state_dict()):
        raise RuntimeError(f"pruned weights came back to life during epoch {epoch}: {revived}")
    fresh = folder.with_name(f"{folder.name}.new")
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress = {"epoch": epoch, **_launch(accelerator), "start": start.as_plain()}
        (fresh / "progress.json").write_text(json.dumps(progress))
        flush_tree(fresh)
        former = _former(folder)
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            folder.rename(former)
        fresh.rename(folder)
        flush(folder.parent)
        shutil.rmtree(former, ignore_errors=True)
    accelerator.wait_for_everyone()


def find_checkpoint(accelerator: Accelerator, folder: Path) -> Path | None:
    """The newest complete checkpoint at `folder`, or None.

    A run killed while it replaced its checkpoint has the former one still beside it. Raises
    InputError when the checkpoint is of another number of processes, gradient accumulation or
    precision: its schedule counts other updates.
    """
    for place in (folder, _former(folder)):
        if place.exists():
            progress = _progress(place)
            for setting, now in _launch(accelerator).items():
                if progress.get(setting) != now:
                    raise InputError(
                        f"{place} was written with {setting} {progress.get(setting)}, but this launch has {now}: "
                        "resume with the same accelerate settings"
                    )
            return place
    return None


def load_checkpoint(accelerator: Accelerator, folder: Path) -> int:
    """Restore the state that `save_checkpoint` wrote; the epoch after which it was saved.

    Raises InputError when a file of it is damaged.
    """
    try:
        accelerator.load_state(str(folder))
    except Exception as error:
        # Truncated files surface as whatever the format's reader stumbles over.
        raise InputError(f"{_damaged(folder)} ({type(error).__name__})") from error
    return _progress(folder)["epoch"]


def weights_in_checkpoint(folder: Path) -> dict[str, Tensor]:
    """The state dict of the model that `save_checkpoint` saved. InputError when it is damaged."""
    try:
        return load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(_damaged(folder)) from error


def start_in(folder: Path) -> Start | None:
    """What was known before the training that `save_checkpoint` saved; None in checkpoints of earlier versions."""
    start = _progress(folder).get("start")
    try:
        return start and Start.from_plain(start)
    except (KeyError, TypeError):
        raise InputError(_damaged(folder)) from None


def _progress(folder: Path) -> dict[str, Any]:
    try:
        progress = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        progress = {}
    if "epoch" not in progress:
        raise InputError(_damaged(folder))
    return progress


def _damaged(folder: Path) -> str:
    return f"the checkpoint {folder} is damaged: delete it, and --resume trains again from the masks"


def _launch(accelerator: Accelerator) -> dict[str, int | str]:
    return {
        "processes": accelerator.num_processes,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "mixed_precision": accelerator.mixed_precision,
    }


def _former(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")
