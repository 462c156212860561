"""Finished runs read from the folders of a sweep."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from px_seg.config import flat
from px_seg.deploy import exported_scores, read_measured
from px_seg.errors import InputError
from px_seg.files import parse_json, read_yaml
from px_seg.report.agreement import check_agreement, check_copies, check_one_dataset
from px_seg.report.runs import Run
from px_seg.run.folder import RunFolder
from px_seg.sweep.plan import RESERVED
from px_seg.tasks import TASKS, score_by


def read_runs(folder: Path) -> list[Run]:
    """The finished runs below the folder, each in .../METHOD/SPARSITY/seedN.

    Raises InputError when there is none, one is damaged or lies elsewhere, and when they are of both tasks.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    runs = []
    for results in sorted(folder.rglob("results.json")):
        place = results.parent.relative_to(folder)
        if place.parts[:1] not in [(name,) for name in RESERVED]:
            runs.append(_read(folder, place))
    if not runs:
        raise InputError(f"there is no finished run in {folder}")
    check_copies(runs)
    check_one_dataset(runs)
    if len(tasks := {run.results["task"] for run in runs}) > 1:
        raise InputError(f"{folder} holds runs of {' and '.join(sorted(tasks))}: give each task its own folder")
    return runs


def _read(root: Path, place: Path) -> Run:
    folder = root / place
    if len(place.parts) < 3:
        raise InputError(f"the run in {folder} is not part of a sweep, whose runs lie in {root}/METHOD/SPARSITY/seedN")
    *group, method, _, _ = place.parts
    files = RunFolder(folder)
    damaged = InputError(f"the run in {folder} is damaged: delete the folder and rerun it")
    try:
        results, config = parse_json(files.results.read_text()), read_yaml(files.config, "the configuration")
    except (OSError, ValueError):
        raise damaged from None
    if not isinstance(results, dict) or not isinstance(config, dict):
        raise damaged
    if missing := {"flops", "parameters", "checkpoint_bytes"} - results.keys():
        raise InputError(
            f"the run in {folder} is from an earlier version, without {', '.join(sorted(missing))}: rerun it"
        )
    if not _sound(results):
        raise damaged
    check_agreement(folder, results, flat(config))
    exported = exported_scores(folder)
    name = score_by(results).name
    if not all(_is_score(one.get(name)) for own in exported.values() for one in (own, *own.get("also", {}).values())):
        raise InputError(f"what was exported of the run in {folder} has damaged scores: export it again")
    return Run(folder, tuple(group), method, flat(config), results, read_measured(folder), exported)


NUMBER = (int, float)

KINDS: dict[str, Any] = {
    **dict.fromkeys(("task", "method", "encoder", "weights", "device", "mixed_precision"), str),
    **dict.fromkeys(("seed", "epochs", "rounds", "processes"), int),
    **dict.fromkeys(("sparsity", "backbone_sparsity", "model_sparsity"), NUMBER),
    "parameters": {"kept": NUMBER, "total": NUMBER},
    "flops": {"kept": NUMBER, "total": NUMBER},
    "checkpoint_bytes": {"file": NUMBER, "compressed": NUMBER},
    "seconds": {"prune": NUMBER, "train": NUMBER, "evaluate": NUMBER},
    "data": {"name": str, "classes": int, "train": int, "val": int, "size": int, "evaluation": str},
    **dict.fromkeys(("empty_layers", "notes"), list),
    "versions": dict,
}
"""What a report reads of results.json, and of which types it is."""

PRESERVATION: dict[str, Any] = {"cka": dict, "agreement": NUMBER, "error": NUMBER}
"""The same of its part of that name, where it has one."""


def _is_score(value: Any) -> bool:
    return isinstance(value, NUMBER) and math.isfinite(value)


def _sound(results: Mapping[str, Any]) -> bool:
    def fits(value: Any, kind: Any) -> bool:
        if isinstance(kind, dict):
            return isinstance(value, dict) and all(fits(value.get(key), inner) for key, inner in kind.items())
        return isinstance(value, kind) and not isinstance(value, bool)

    if not fits(results, KINDS) or results["task"] not in TASKS or not isinstance(results.get("files", {}), dict):
        return False
    if not _is_score(results.get(score_by(results).name)):
        return False
    others = results.get("also", {})
    if not isinstance(others, dict):
        return False
    if not all(isinstance(own, dict) and _is_score(own.get(score_by(results).name)) for own in others.values()):
        return False
    # Runs from random weights, and those of earlier versions, have none.
    found = [results.get(key) for key in ("preservation", "preservation_repaired")]
    return all(preserved is None or (fits(preserved, PRESERVATION) and bool(preserved["cka"])) for preserved in found)
