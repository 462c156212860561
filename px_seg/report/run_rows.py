"""One row a run, for programs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from px_seg.report.runs import FORMATS, Run
from px_seg.run.results import EFFECTIVE
from px_seg.tasks import TASKS, score_by


def tidy(path: Path, runs: Sequence[Run]) -> None:
    """Write a CSV with one row a run, shares in [0, 1], and a column for each varied key."""
    rows = [_tidy_row(run) for run in runs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _tidy_row(run: Run) -> dict[str, Any]:
    results = run.results
    varied = dict(part.partition("=")[::2] if "=" in part else ("group", part) for part in run.group)
    return {
        "task": results["task"],
        **varied,
        "method": run.method,
        "sparsity": run.sparsity,
        "seed": run.seed,
        **{score.name: results[score.name] for score in TASKS[results["task"]].scores if score.name in results},
        **{
            f"{score.name}_{split}": own[score.name]
            for split, own in results.get("also", {}).items()
            for score in TASKS[results["task"]].scores
            if score.name in own
        },
        "backbone_sparsity": results["backbone_sparsity"],
        "model_sparsity": results["model_sparsity"],
        **{key: results.get(key) for key in EFFECTIVE},
        **{f"{what}_{part}": results[what][part] for what in ("parameters", "flops") for part in ("kept", "total")},
        **_measured(run),
        "checkpoint_bytes": results["checkpoint_bytes"]["file"],
        "compressed_bytes": results["checkpoint_bytes"]["compressed"],
        **{f"{stage}_seconds": spent for stage, spent in results["seconds"].items()},
        "data_name": results["data"]["name"],
        "encoder_name": results["encoder"],
        "start": results["weights"],
        "epochs": results["epochs"],
        "rounds_used": results["rounds"],
        "empty_layers": len(results["empty_layers"]),
        **preserved_columns(results),
        "device": results["device"],
        "processes": results["processes"],
        "mixed_precision": results["mixed_precision"],
        "folder": str(run.folder),
    }


def _measured(run: Run) -> dict[str, float]:
    found: dict[str, float] = {}
    if run.cost is not None:
        found |= {"milliseconds": run.cost.milliseconds, "dense_milliseconds": run.cost.dense}
        found["compacted_megabytes"] = run.cost.megabytes
    for runtime, kind in FORMATS.items():
        score, cost = run.score_in(runtime), run.cost_in(runtime)
        if score is not None and runtime == kind:
            found[f"{runtime}_{score_by(run.results).name}"] = score
        if score is not None and cost is not None:
            found |= {f"{runtime}_milliseconds": cost.milliseconds, f"{runtime}_megabytes": cost.megabytes}
    return found


def preserved_columns(results: Mapping[str, Any]) -> dict[str, float]:
    """The columns of what a run says of its network before training, none where it does not."""
    columns: dict[str, float] = {}
    for key, prefix in (("preservation", "preserved"), ("preservation_repaired", "repaired")):
        if (found := results.get(key)) is not None:
            last = list(found["cka"].values())[-1]
            columns |= {f"{prefix}_cka": last, f"{prefix}_agreement": found["agreement"]}
            columns |= {f"{prefix}_error": found["error"]}
    return columns
