"""What there is to know of a finished run's network to use it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from px_seg.data.normalisation import Normalisation
from px_seg.data.palette import voc_colours
from px_seg.errors import InputError
from px_seg.files import parse_json
from px_seg.run.folder import EXPORTED, EXPORTED_BEST, EXPORTED_BEST_WHOLE, EXPORTED_WHOLE, RunFolder

FORMAT = "px_seg.card/1"


@dataclass(frozen=True)
class Card:
    """What a network answers in, and what to give it."""

    task: str
    """seg or cls."""
    classes: tuple[str, ...]
    """By number."""
    normalisation: Normalisation | None
    """Of its images, where it is known."""
    size: int
    """Side in pixels of the images that it was trained on."""
    encoder: str
    method: str
    sparsity: float
    """Of the backbone, as asked for."""
    multiple: int = 1
    """What has to divide the sides of an image that an exported file is given."""

    @property
    def channels(self) -> int:
        """Of its images."""
        return 3 if self.normalisation is None else len(self.normalisation.mean)

    def as_text(self) -> str:
        """As it travels in exported files: JSON, with the colour of every class, RGB in 0 to 255."""
        normalisation = None if self.normalisation is None else self.normalisation.as_plain()
        colours = voc_colours()[: len(self.classes)].tolist()
        held = {**vars(self), "classes": list(self.classes), "normalisation": normalisation, "colours": colours}
        return json.dumps({"format": FORMAT, **held})

    @classmethod
    def of_text(cls, text: str) -> "Card":
        """What `as_text` wrote. ValueError for anything else."""
        held = parse_json(text)
        try:
            if held["format"] != FORMAT or held["task"] not in ("seg", "cls") or not held["classes"]:
                raise ValueError("not a card of px_seg")
            if not 1 <= int(held["multiple"]) <= 4096 or not int(held["size"]) >= 1:
                raise ValueError("not a card of px_seg: its sizes are none")
            return cls(
                held["task"],
                tuple(map(str, held["classes"])),
                _normalisation(held),
                int(held["size"]),
                str(held["encoder"]),
                str(held["method"]),
                float(held["sparsity"]),
                int(held["multiple"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a card of px_seg: {error}") from None


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a finished run. InputError where there is none, or it is damaged."""
    file = folder / "results.json"
    try:
        results = parse_json(file.read_text())
        float(results["sparsity"]), int(results["data"]["size"]), str(results["task"])
    except OSError:
        raise InputError(
            f"there is no finished run in {folder}: results.json is missing. Give the folder of one run, and finish an "
            "interrupted one with --resume first"
        ) from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise InputError(f"{file} is damaged") from None
    return results


def run_of(folder: Path) -> Path:
    """The run that a folder is of: that of RUN/best, the network of its best epoch, is RUN."""
    run = RunFolder(folder.parent)
    of_best = folder.name == run.best.name and run.results.exists() and not RunFolder(folder).results.exists()
    return run.path if of_best else folder


def export_folder(folder: Path, compacted: bool = True) -> Path:
    """Where the exported files of a run, or of its best epoch, are, by the folder of either."""
    run = run_of(folder)
    if run == folder:
        return run / (EXPORTED if compacted else EXPORTED_WHOLE)
    return run / (EXPORTED_BEST if compacted else EXPORTED_BEST_WHOLE)


def read_card(folder: Path) -> Card:
    """Of a finished run, by its folder or that of its best epoch.

    InputError where there is none, or its results are damaged.
    """
    folder = run_of(folder)
    results = read_results(folder)
    key = {"seg": "class_iou", "cls": "class_accuracy"}.get(results["task"])
    classes = results.get(key) if key else None
    if not isinstance(classes, dict):
        raise InputError(f"{folder / 'results.json'} names no classes: the run is damaged, or of another program")
    return Card(
        results["task"],
        tuple(classes),
        _normalisation(results),
        int(results["data"]["size"]),
        str(results.get("encoder")),
        str(results.get("method")),
        float(results["sparsity"]),
    )


def _normalisation(held: Mapping[str, Any]) -> Normalisation | None:
    try:
        return Normalisation.of(held["normalisation"]["mean"], held["normalisation"]["std"])
    except (KeyError, TypeError, ValueError):
        return None
