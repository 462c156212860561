"""Spectra of the Neural Tangent Kernel of pruned networks: rows, and the table of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.comparison.kind import Key, key_of
from px_seg.comparison.row_files import damaged, key_columns, key_in, number, read_csv, write_csv
from px_seg.comparison.row_tables import cells_of, counted, markdown, mean_of, named, seeds_of

ROWS, SPECTRA = "ntk.csv", "ntk_spectra.csv"


class SpectrumRow(NamedTuple):
    """The kernel of one network, beside that of the dense one it came from."""

    method: str
    sparsity: float
    seed: int
    outputs: int
    """Rows of the kernel whose spectrum it is."""
    all_outputs: int
    """Of the same images; trace, largest eigenvalue and bound are of all."""
    distance: float
    """Decades between this spectrum and the dense one, in the mean (`px_seg.analysis.spectral_distance`)."""
    alignment: float
    """Centred alignment of the kernel with the dense one."""
    trace: float
    trace_error: float
    """One standard error; 0 where the trace is exact."""
    largest: float
    largest_error: float
    condition: float
    effective_rank: float
    rank: int
    bound: float
    """PX's upper bound on the trace, biases and shifts counted as paths."""
    prune_seconds: float
    spectrum: tuple[float, ...]
    """Eigenvalues, largest first."""


def write_rows(folder: Path, rows: Sequence[SpectrumRow]) -> None:
    """Two CSVs: a row a network, and a row an eigenvalue."""
    spectra = (
        {**key_columns(row), "place": place, "eigenvalue": f"{value:.9g}"}
        for row in rows
        for place, value in enumerate(row.spectrum, 1)
    )
    # The rows come last: those that are there have their spectra.
    write_csv(folder / SPECTRA, spectra)
    write_csv(folder / ROWS, ({k: v for k, v in row._asdict().items() if k != "spectrum"} for row in rows))


def read_rows(folder: Path) -> list[SpectrumRow]:
    """The rows that `write_rows` wrote; none where there is no file. InputError for others, or damaged ones."""
    spectra: dict[Key, list[float]] = {}
    for key, place, value in read_csv(folder / SPECTRA, _eigenvalue):
        own = spectra.setdefault(key, [])
        own.append(value)
        if len(own) != place:
            raise damaged(folder / SPECTRA, folder / ROWS)
    rows = read_csv(folder / ROWS, _row, key_of)
    if any(len(spectra.get(key_of(row), ())) != row.outputs for row in rows):
        raise damaged(folder / SPECTRA, folder / ROWS)
    return [row._replace(spectrum=tuple(spectra[key_of(row)])) for row in rows]


def _eigenvalue(line: dict[str, str]) -> tuple[Key, int, float]:
    return key_in(line), int(line["place"]), number(line["eigenvalue"], low=0)


def _row(line: dict[str, str]) -> SpectrumRow:
    whole = ("seed", "outputs", "all_outputs", "rank")
    values: dict[str, Any] = {key: number(line[key], low=-1) for key in SpectrumRow._fields[1:-1] if key not in whole}
    values |= {key: int(line[key]) for key in whole}
    return SpectrumRow(method=line["method"], spectrum=(), **values)


def table(rows: Sequence[SpectrumRow], images: int) -> str:
    """The rows as Markdown: means over seeds, shares of the dense network's of the same seed."""
    dense = {row.seed: row for row in rows if not row.sparsity}
    head = ["method", "sparsity", "distance", "alignment", "trace", "largest", "condition", "effective rank", "bound"]
    seeds = seeds_of(rows)
    lines = []
    for (method, sparsity), same in cells_of(rows).items():
        pairs = [(row, dense[row.seed]) for row in same if row.seed in dense]
        lines.append(
            [
                *named(method, sparsity, same, seeds),
                f"{mean_of(row.distance for row in same):.2f}",
                f"{mean_of(row.alignment for row in same):.3f}",
                _share([_over(row.trace, own.trace) for row, own in pairs]),
                _share([_over(row.largest, own.largest) for row, own in pairs]),
                _short(mean_of(row.condition for row in same)),
                f"{mean_of(row.effective_rank for row in same):.1f}",
                _short(mean_of(_over(row.bound, row.trace) for row in same)),
            ]
        )
    first = rows[0]
    some = "" if first.outputs == first.all_outputs else f", {first.outputs:,} of their {first.all_outputs:,} outputs"
    caption = (
        f"Neural Tangent Kernel before any training, {counted(images, seeds)}{some}: distance from the dense spectrum "
        "in decades, centred alignment with the dense kernel, trace and largest eigenvalue over the dense network's, "
        "condition number, effective rank, and PX's bound on the trace over the trace"
    )
    errors = [_over(row.trace_error, row.trace) for row in rows if row.trace_error]
    if errors:
        caption += f"; traces are estimates with standard errors of at most {max(errors):.1%}"
    return f"{caption}:\n\n{markdown(head, lines)}"


def _over(value: float, whole: float) -> float:
    return value / whole if whole else math.inf if value else 0.0


def _share(values: Sequence[float]) -> str:
    """Blank where the dense network could not be measured."""
    return f"{mean_of(values):.3g}" if values else ""


def _short(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.1e}" if value >= 1e4 else f"{value:.3g}"


def said(row: SpectrumRow) -> str:
    """A row in words."""
    sparsity = f" {row.sparsity:.2%}" if row.sparsity else ""
    return (
        f"{row.method}{sparsity} seed {row.seed}: trace {row.trace:.3g}, effective rank {row.effective_rank:.1f}, "
        f"{row.distance:.2f} decades from the dense spectrum, alignment {row.alignment:.3f}"
    )
