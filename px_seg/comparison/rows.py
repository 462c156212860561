"""How well each pruned network is the dense one: rows, and the table of them."""

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from torch import nn

from px_seg.analysis import preservation
from px_seg.errors import InputError
from px_seg.files import write_text
from px_seg.pruning import Masks
from px_seg.pruning.batches import Batches


class Row(NamedTuple):
    """One pruned network beside the dense one it came from."""

    method: str
    sparsity: float
    seed: int
    agreement: float
    error: float
    empty_layers: int
    """Weight tensors that keep nothing."""
    prune_seconds: float
    cka: dict[str, float]
    """By stage, from the input on."""


def compared(
    model: nn.Module,
    method: str,
    sparsity: float,
    seed: int,
    prune: Callable[[], Masks],
    images: Batches,
    stages: Sequence[str] | None = None,
    repair: Callable[[Masks], nn.Module] | None = None,
) -> Row:
    """Prune by `prune`, repair by `repair` if it is given, and compare on `images`: `px_seg.analysis.preservation`."""
    started = time.perf_counter()
    masks = prune()
    spent = time.perf_counter() - started
    found = preservation(model, masks, images, stages, repair(masks) if repair else None)
    empty = sum(density == 0 for density in masks.densities().values())
    return Row(method, sparsity, seed, found.agreement, found.error, empty, spent, found.cka)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV with one row a network, and a column for the CKA of every stage."""
    stages = list(rows[0].cka)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*Row._fields[:-1], *(f"cka_{stage}" for stage in stages)])
    writer.writerows([*row[:-1], *(row.cka[stage] for stage in stages)] for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_rows` wrote; none where there is no file. InputError for another file, or a damaged one."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.DictReader(text.splitlines(), strict=True))
        rows = [_row(line) for line in lines]
        whole = text.endswith("\n") and len({row[:3] for row in rows}) == len(rows)
        if not whole or not all(rows[0].cka.keys() == row.cka.keys() and row.cka for row in rows):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error):
        raise InputError(
            f"{path} is damaged, or of another version: repair it, or delete it to measure its rows again"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return rows


def _row(line: dict[str, Any]) -> Row:
    cka = {key.removeprefix("cka_"): float(value) for key, value in line.items() if key.startswith("cka_")}
    row = Row(
        method=line["method"],
        sparsity=float(line["sparsity"]),
        seed=int(line["seed"]),
        agreement=float(line["agreement"]),
        error=float(line["error"]),
        empty_layers=int(line["empty_layers"]),
        prune_seconds=float(line["prune_seconds"]),
        cka=cka,
    )
    possible = 0 <= row.agreement <= 1 and 0 <= row.sparsity <= 1 and all(map(math.isfinite, cka.values()))
    possible &= row.error >= 0 and row.prune_seconds >= 0 and row.empty_layers >= 0
    if not possible or len(line) != len(Row._fields) - 1 + len(cka):
        raise ValueError(line)
    return row


def table(rows: Sequence[Row], images: int) -> str:
    """The rows as Markdown: means over seeds, the methods in their order, a line a method and sparsity."""
    stages, seeds = list(rows[0].cka), len({row.seed for row in rows})
    head = ["method", "sparsity", *(f"CKA {stage}" for stage in stages)]
    head += ["agreement", "error", "empty layers", "prune s"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for method, sparsity in dict.fromkeys((row.method, row.sparsity) for row in rows):
        same = [row for row in rows if (row.method, row.sparsity) == (method, sparsity)]
        fewer = "" if len(same) == seeds else f" ({len(same)} of {seeds} seeds)"
        cells = [f"`{method}`", f"{100 * sparsity:g}%{fewer}"]
        cells += [f"{mean(row.cka[stage] for row in same):.3f}" for stage in stages]
        cells += [f"{mean(row.agreement for row in same):.1%}", f"{mean(row.error for row in same):.3f}"]
        cells += [f"{mean(row.empty_layers for row in same):g}", f"{mean(row.prune_seconds for row in same):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    caption = f"Before any training, on {images} images, {seeds} seed{'s' if seeds > 1 else ''}:"
    return "\n".join([caption, "", *lines])
