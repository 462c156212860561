"""What pruning pays in other runtimes: networks dense and compacted, in torch, ONNX Runtime and OpenVINO."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from px_seg.benchmark.payoff import Case, megabytes, pruned_cells, setting_of
from px_seg.benchmark.pretrained import all_named
from px_seg.benchmark.rows import PrunedRow, read_rows, write_rows
from px_seg.deploy.card import Card
from px_seg.deploy.exported import Exported, open_exported, quantise, write_onnx, write_openvino
from px_seg.deploy.exported.network import FILES, notes_of
from px_seg.deploy.exporting import check_formats
from px_seg.deploy.latency import costs_in_turns
from px_seg.models import normalisation_of
from px_seg.pruning.compaction.shrinking import compact

FILE = "exported.csv"


@dataclass(frozen=True)
class Row(PrunedRow):
    """What a network costs in one runtime."""

    network: str
    """dense or compacted."""
    runtime: str
    """torch, or the format that was exported."""
    milliseconds: float
    """The median."""
    share: float
    """Of the dense network's in torch."""
    megabytes: float
    """Of its numbers, or of the file."""
    error: float
    """Mean distance of its logits from torch's of the same network, as a share of their standard deviation."""


def report_exported(
    case: Case, methods: Sequence[str], sparsities: Sequence[float], output: Path, say: Callable[[str], Any] = print
) -> list[Row]:
    """Measure every method at every sparsity in every runtime, into exported.csv in `output`; rows that are there stay.

    INT8 is calibrated on the photographs that prune, on which its error is measured as well. Returns all rows of the
    file. Raises InputError as `report_payoff` does, and where a package is missing.
    """
    check_formats(list(FILES))
    named = all_named(methods, case.seed, sparsities)
    setting = setting_of(case)
    known = {row.cell for row in read_rows(output / FILE, Row)}
    photographs = [image[None] for batch in setting.prune_by for image in batch]
    for cell, masks in pruned_cells(case, setting, named, sparsities, known):
        networks = {"dense": setting.model, "compacted": compact(setting.model, masks)}
        rows = _measured(case, cell, networks, photographs)
        write_rows(output / FILE, [*read_rows(output / FILE, Row), *rows])
        shares = ", ".join(f"{row.network} {row.runtime} {row.share:.2f}" for row in rows)
        what = f"{case.encoder} {cell['method']} {cell['sparsity']:.0%}"
        say(f"{what}, of the dense network's milliseconds in torch: {shares}")
    return read_rows(output / FILE, Row)


def _measured(
    case: Case, cell: Mapping[str, Any], networks: Mapping[str, nn.Module], photographs: Sequence[Tensor]
) -> list[Row]:
    method, sparsity = cell["method"], cell["sparsity"]
    normalisation = normalisation_of(case.encoder, case.weights)
    classes = tuple(f"class {number}" for number in range(21))
    notes = notes_of(Card("seg", classes, normalisation, case.side, case.encoder, method, sparsity), None)
    draws = torch.Generator().manual_seed(case.seed)
    images = torch.randn(case.batch_size, 3, case.side, case.side, generator=draws)
    with TemporaryDirectory() as place:
        files: dict[str, Exported] = {}
        for name, network in networks.items():
            onnx, openvino, int8 = (Path(place) / f"{name}.{file}" for file in FILES.values())
            write_onnx(network, onnx, notes, case.side)
            write_openvino(onnx, openvino, notes)
            quantise(openvino, int8, notes, [image.numpy() for image in photographs])
            files |= {
                f"{name} {kind}": open_exported(file) for kind, file in zip(FILES, (onnx, openvino, int8), strict=True)
            }
        costs, file_costs = costs_in_turns(networks, files, images, case.repeats)
        errors = {name: _error(networks[name.split()[0]], one, photographs) for name, one in files.items()}
    dense = costs["dense"].milliseconds
    rows = []
    for name, network in networks.items():
        found = {"torch": (costs[name].milliseconds, megabytes(network), 0.0)}
        for kind in FILES:
            cost = file_costs[f"{name} {kind}"]
            found[kind] = (cost.milliseconds, cost.bytes / 1e6, errors[f"{name} {kind}"])
        for kind, (own, size, error) in found.items():
            where: dict[str, Any] = {**cell, "network": name, "runtime": kind}
            rows.append(Row(**where, milliseconds=own, share=own / dense, megabytes=size, error=error))
    return rows


def _error(network: nn.Module, exported: Exported, photographs: Sequence[Tensor]) -> float:
    with torch.inference_mode():
        pairs = [(network(image).numpy(), exported(image).numpy()) for image in photographs]
    away = np.mean([np.abs(own - other).mean() for own, other in pairs])
    return float(away / np.concatenate([own.ravel() for own, _ in pairs]).std())


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows, a line for each network and runtime."""
    lines = [
        "| network | side | method | pruned | | in | ms | of dense in torch | MB | logits' error |",
        "|---|---:|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.encoder} | {row.side} | `{row.method}` | {row.sparsity:.0%} | {row.network} | {row.runtime} | "
            f"{row.milliseconds:.1f} | {row.share:.2f} | {row.megabytes:.1f} | {row.error:.1g} |"
        )
    return "\n".join(lines)
