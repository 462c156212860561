"""A segmentation run that gets a signal at a moment of its own choosing.

python -m helpers.killed SIGKILL MOMENT FLAGS...
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from px_seg import PX
from px_seg.commands import main
from px_seg.run import checkpoint_files, folder, pipeline, sparsify
from px_seg.run.folder import RunFolder
from px_seg.tasks import Segmentation


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])


def die_together(*_: object) -> None:
    """The signal comes to all processes of the run, from a process of its own, as a cluster sends it."""
    subprocess.run(["kill", f"-{sys.argv[1][3:]}", "--", f"-{os.getpgid(0)}"], start_new_session=True)


def in_call(place: object, name: str, number: int = 1, after: bool = False, die: Callable[[], None] = die) -> None:
    """Die when a function is called for the n-th time, or has then returned."""
    function, calls = getattr(place, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) == number and not after:
            die()
        result = function(*args, **kwargs)
        if len(calls) == number:
            die()
        return result

    setattr(place, name, counted)


def half_written(folder: Path, record: object) -> None:
    """In place of `install`: the third checkpoint is cut off before it is sealed."""
    installed.append(folder)
    if len(installed) == 3:
        file = checkpoint_files.fresh(folder) / "model.safetensors"
        os.truncate(file, file.stat().st_size // 2)
        die()
    install(folder, record)


def renamed(self: Path, target: Path) -> Path:
    """In place of `Path.rename`: dies when the second checkpoint has been moved out of the way of the third."""
    done = rename(self, target)
    if Path(target).name == "checkpoint.old":
        moved.append(target)
        if len(moved) == 2:
            die()
    return done


def told_while_saving(folder: Path, record: object) -> None:
    """In place of `install`: the signal comes while the last epoch's checkpoint is written."""
    installed.append(folder)
    if len(installed) == 4:
        die()
    install(folder, record)


installed, moved, install, rename = [], [], checkpoint_files.install, Path.rename

MOMENTS = {
    "pruning": lambda: in_call(sparsify.Masks, "save", 2, after=True),
    "repaired": lambda: in_call(pipeline, "compacted"),
    "scoring": lambda: in_call(PX, "score", 3),
    "epoch": lambda: in_call(Segmentation, "loss", 4),
    "together": lambda: in_call(Segmentation, "loss", 4, die=die_together),
    "checkpoint": lambda: setattr(checkpoint_files, "install", half_written),
    "saving": lambda: setattr(checkpoint_files, "install", told_while_saving),
    "beginning": lambda: in_call(folder, "write_text"),
    "checking": lambda: in_call(Segmentation, "check_data"),
    "renaming": lambda: setattr(Path, "rename", renamed),
    "evaluation": lambda: in_call(Segmentation, "predict", 5),
    "logged": lambda: in_call(RunFolder, "log", 2, after=True),
    "model": lambda: in_call(Segmentation, "save"),
    "results": lambda: in_call(RunFolder, "finish"),
}
"""What to arrange for a signal at each."""

if __name__ == "__main__":
    os.setsid()
    # Where tests run in the background of a shell, Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    MOMENTS[sys.argv[2]]()
    if sys.argv[1] == "SIGKILL":
        sparsify.SAVE_EVERY = 0.0
    main(["seg", *sys.argv[3:]])
