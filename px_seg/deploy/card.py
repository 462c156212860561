"""What there is to know of a finished run's network to use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from px_seg.data.normalisation import Normalisation
from px_seg.errors import InputError


@dataclass(frozen=True)
class Card:
    """What a network answers in."""

    task: str
    """seg or cls."""
    classes: tuple[str, ...]
    """By number."""
    normalisation: Normalisation | None
    """Of its images, where it is known."""


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a finished run. InputError where there is none, or it is damaged."""
    file = folder / "results.json"
    try:
        results = json.loads(file.read_text())
        float(results["sparsity"]), int(results["data"]["size"]), str(results["task"])
    except OSError:
        raise InputError(
            f"there is no finished run in {folder}: results.json is missing. Give the folder of one run, and finish an "
            "interrupted one with --resume first"
        ) from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise InputError(f"{file} is damaged") from None
    return results


def read_card(folder: Path) -> Card:
    """Of a finished run, by its folder. InputError where there is none, or its results are damaged."""
    results = read_results(folder)
    key = {"seg": "class_iou", "cls": "class_accuracy"}.get(results["task"])
    classes = results.get(key) if key else None
    if not isinstance(classes, dict):
        raise InputError(f"{folder / 'results.json'} names no classes: the run is damaged, or of another program")
    try:
        normalisation = Normalisation.of(results["normalisation"]["mean"], results["normalisation"]["std"])
    except (KeyError, TypeError, ValueError):
        normalisation = None
    return Card(results["task"], tuple(classes), normalisation)
