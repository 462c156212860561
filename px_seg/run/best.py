"""The network of the epoch with the best score on the validation images, kept beside that of the last one."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import nn

from px_seg.devices import main_only
from px_seg.metrics import Score
from px_seg.run.folder import RunFolder
from px_seg.tasks import Task

Line = Mapping[str, Any]
"""Of metrics.jsonl."""


def best_line(history: Sequence[Line], score: Score) -> Line | None:
    """The first of the trained epochs with the best value, or None where none was evaluated."""
    evaluated = [line for line in history if line["epoch"] and score.name in line]
    if not evaluated:
        return None
    best = score.best(line[score.name] for line in evaluated)
    return next(line for line in evaluated if line[score.name] == best)


def keep_if_best(
    accelerator: Accelerator, task: Task, folder: RunFolder, network: nn.Module, history: Sequence[Line], line: Line
) -> None:
    """Save the network of the epoch that `line` is of, if it is better than all before; called by all processes.

    To be called before the line is logged: what is logged has been saved.
    """
    score = task.scores[0]
    if best_line([*history, line], score) is not line:
        return

    def save() -> None:
        folder.best_epoch.unlink(missing_ok=True)
        task.save(network, folder.best, {"epoch": line["epoch"], score.name: line[score.name]})
        folder.note_best(line["epoch"])

    main_only(accelerator, save)


def best_of(task: Task, folder: RunFolder, history: Sequence[Line], epochs: int) -> dict[str, Any] | None:
    """The best epoch for results.json, its scores, and the folder in which its network is; None where there is none.

    Where that is the last of the `epochs`, it is the run's own model, and nothing else is kept. Where its network was
    not kept, as after a damaged checkpoint or where keeping began with a run that was resumed, the folder is None.
    """
    score = task.scores[0]
    line = best_line(history, score)
    if line is None:
        return None
    place: str | None = folder.model.name
    if line["epoch"] == epochs:
        folder.drop_best()
    else:
        place = folder.best.name if folder.epoch_kept() == line["epoch"] else None
    scores = {each.name: line[each.name] for each in task.scores if each.name in line}
    return {"epoch": line["epoch"], "by": score.name, "folder": place, **scores}
