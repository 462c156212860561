"""How well each pruned network is the dense one: rows, and the table of them."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from px_seg.analysis import effective_paths, preservation
from px_seg.comparison.kind import Key, key_of
from px_seg.comparison.row_files import damaged, number, read_csv, write_csv
from px_seg.comparison.row_tables import cells_of, counted, markdown, mean_of, named, seeds_of
from px_seg.pruning import Masks, UnsupportedOperation
from px_seg.pruning.batches import Batches, sample_shape

ROWS = "preservation.csv"


class PreservationRow(NamedTuple):
    """One pruned network beside the dense one it came from."""

    method: str
    sparsity: float
    seed: int
    agreement: float
    error: float
    empty_layers: int
    """Weight tensors that keep nothing."""
    effective_sparsity: float | None
    """Share of the weights that are pruned or lie on no path; None where paths are not defined."""
    live_channels: float | None
    """Share of the output channels that lie on a path."""
    prune_seconds: float
    cka: dict[str, float]
    """By stage, from the input on."""


def compared(
    key: Key,
    model: nn.Module,
    masks: Masks,
    prune_seconds: float,
    images: Batches,
    stages: Sequence[str] | None = None,
    repaired: nn.Module | None = None,
) -> PreservationRow:
    """Compare on `images`: `px_seg.analysis.preservation`. `prune_seconds` is what finding the masks took."""
    found = preservation(model, masks, images, stages, repaired)
    empty = sum(density == 0 for density in masks.densities().values())
    effective: tuple[float | None, float | None] = (None, None)
    # A network in which paths are not defined, which preservation can do without.
    with suppress(UnsupportedOperation):
        paths = effective_paths(model, masks, sample_shape(images, None))
        effective = 1 - sum(paths.weights.values()) / masks.total, paths.channel_share
    return PreservationRow(*key, found.agreement, found.error, empty, *effective, prune_seconds, found.cka)


def write_rows(folder: Path, rows: Sequence[PreservationRow]) -> None:
    """A CSV with one row a network, and a column for the CKA of every stage."""
    lines = (
        {**{key: value for key, value in row._asdict().items() if key != "cka"}, **_columns(row.cka)} for row in rows
    )
    write_csv(folder / ROWS, lines)


def _columns(cka: Mapping[str, float]) -> dict[str, float]:
    return {f"cka_{stage}": value for stage, value in cka.items()}


def read_rows(folder: Path) -> list[PreservationRow]:
    """The rows that `write_rows` wrote; none where there is no file. InputError for another file, or a damaged one."""
    rows = read_csv(folder / ROWS, _row, key_of)
    if not all(rows[0].cka.keys() == row.cka.keys() and row.cka for row in rows):
        raise damaged(folder / ROWS)
    return rows


def _row(line: dict[str, Any]) -> PreservationRow:
    cka = {key.removeprefix("cka_"): float(value) for key, value in line.items() if key.startswith("cka_")}
    row = PreservationRow(
        method=line["method"],
        sparsity=float(line["sparsity"]),
        seed=int(line["seed"]),
        agreement=float(line["agreement"]),
        error=float(line["error"]),
        empty_layers=int(line["empty_layers"]),
        effective_sparsity=_share(line["effective_sparsity"]),
        live_channels=_share(line["live_channels"]),
        prune_seconds=float(line["prune_seconds"]),
        cka=cka,
    )
    possible = 0 <= row.agreement <= 1 and 0 <= row.sparsity <= 1 and all(map(math.isfinite, cka.values()))
    possible &= row.error >= 0 and row.prune_seconds >= 0 and row.empty_layers >= 0
    if not possible or len(line) != len(PreservationRow._fields) - 1 + len(cka):
        raise ValueError(line)
    return row


def _share(text: str) -> float | None:
    return number(text, 0, 1) if text else None


def table(rows: Sequence[PreservationRow], images: int) -> str:
    """The rows as Markdown: means over seeds, the methods in their order, a line a method and sparsity."""
    stages, seeds = list(rows[0].cka), seeds_of(rows)
    head = ["method", "sparsity", *(f"CKA {stage}" for stage in stages)]
    head += ["agreement", "error", "effective", "live channels", "empty layers", "prune s"]
    lines = []
    for (method, sparsity), same in cells_of(rows).items():
        cells = named(method, sparsity, same, seeds)
        cells += [f"{mean_of(row.cka[stage] for row in same):.3f}" for stage in stages]
        cells += [f"{mean_of(row.agreement for row in same):.1%}", f"{mean_of(row.error for row in same):.3f}"]
        cells += [_mean_share([row.effective_sparsity for row in same], 2)]
        cells += [_mean_share([row.live_channels for row in same], 1)]
        cells += [f"{mean_of(row.empty_layers for row in same):g}", f"{mean_of(row.prune_seconds for row in same):.1f}"]
        lines.append(cells)
    return f"Before any training, {counted(images, seeds)}:\n\n{markdown(head, lines)}"


def _mean_share(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{mean_of(known):.{digits}%}" if known else ""


def said(row: PreservationRow) -> str:
    """A row in words."""
    last = list(row.cka)[-1]
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}: CKA of {last} {row.cka[last]:.3f}, "
        f"equal predictions {row.agreement:.1%}, error {row.error:.3f}"
    )
