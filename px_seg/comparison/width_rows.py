"""Widths of pruned networks: rows, the layers and residual sums of each, and the table of them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from px_seg.analysis import LayerWidth, Split
from px_seg.comparison.kind import Key, key_of
from px_seg.comparison.row_files import damaged, key_columns, key_in, number, read_csv, write_csv
from px_seg.comparison.row_tables import cells_of, counted, markdown, mean_of, named, seeds_of

ROWS, LAYERS, SUMS = "widths.csv", "widths_layers.csv", "widths_sums.csv"

STARVED = 0.01
"""A branch that brings less than this share of what enters its sum starves."""


class WidthRow(NamedTuple):
    """How wide one network still is (`px_seg.analysis.widths`)."""

    method: str
    sparsity: float
    seed: int
    pruned: float
    """Share of the weights in scope."""
    effective_sparsity: float
    live_channels: float
    """Share of all output channels in scope that lie on a path."""
    log10_paths: float
    narrowest: float
    """The lowest share of live channels of a layer."""
    starved: int
    """Branches that bring less than a hundredth of what enters their sum."""
    dead: tuple[str, ...]
    """Layers and modules that no path passes."""
    prune_seconds: float
    layers: dict[str, LayerWidth]
    sums: dict[str, Split]


def starves(split: Split) -> bool:
    """Whether the branch of a sum brings hardly anything."""
    return split.branch < STARVED * (split.branch + split.shortcut) or split.branch == 0


def write_rows(folder: Path, rows: Sequence[WidthRow]) -> None:
    """Three CSVs: a row a network, a row a layer of it, and a row a residual sum."""
    layers = ({**key_columns(row), "layer": name, **own._asdict()} for row in rows for name, own in row.layers.items())
    sums = [{**key_columns(row), "module": name, **own._asdict()} for row in rows for name, own in row.sums.items()]
    # The rows come last: those that are there have their layers.
    write_csv(folder / LAYERS, layers)
    if sums:
        write_csv(folder / SUMS, sums)
    own = [{k: v for k, v in row._asdict().items() if k not in ("layers", "sums")} for row in rows]
    write_csv(folder / ROWS, ({**line, "dead": " ".join(line["dead"])} for line in own))


T = TypeVar("T")


def read_rows(folder: Path) -> list[WidthRow]:
    """The rows that `write_rows` wrote; none where there is no file. InputError for others, or damaged ones."""
    layers = _by_key(read_csv(folder / LAYERS, _layer))
    sums = _by_key(read_csv(folder / SUMS, _sum))
    rows = read_csv(folder / ROWS, _row, key_of)
    if any(key_of(row) not in layers for row in rows):
        raise damaged(folder / LAYERS, folder / ROWS)
    return [row._replace(layers=layers[key_of(row)], sums=sums.get(key_of(row), {})) for row in rows]


def _by_key(lines: Sequence[tuple[Key, str, T]]) -> dict[Key, dict[str, T]]:
    found: dict[Key, dict[str, T]] = {}
    for key, name, value in lines:
        found.setdefault(key, {})[name] = value
    return found


def _layer(line: dict[str, str]) -> tuple[Key, str, LayerWidth]:
    density, effective = number(line["density"], 0, 1), number(line["effective"], 0, 1)
    flow = number(line["flow"], low=0)
    return key_in(line), line["layer"], LayerWidth(density, effective, int(line["channels"]), int(line["live"]), flow)


def _sum(line: dict[str, str]) -> tuple[Key, str, Split]:
    return key_in(line), line["module"], Split(number(line["branch"], low=0), number(line["shortcut"], low=0))


def _row(line: dict[str, str]) -> WidthRow:
    shares = ("pruned", "effective_sparsity", "live_channels", "narrowest")
    values: dict[str, Any] = {key: number(line[key], 0, 1) for key in shares}
    values |= {"log10_paths": number(line["log10_paths"]), "prune_seconds": number(line["prune_seconds"], low=0)}
    dead = tuple(line["dead"].split())
    return WidthRow(*key_in(line), **values, starved=int(line["starved"]), dead=dead, layers={}, sums={})


def table(rows: Sequence[WidthRow], images: int) -> str:
    """The rows as Markdown, means over seeds, and below it what is dead and which branches starve."""
    seeds = seeds_of(rows)
    head = ["method", "sparsity", "effective", "live channels", "narrowest layer", "log10 paths", "starved branches"]
    lines = [
        [
            *named(method, sparsity, same, seeds),
            f"{mean_of(row.effective_sparsity for row in same):.2%}",
            f"{mean_of(row.live_channels for row in same):.1%}",
            f"{mean_of(row.narrowest for row in same):.1%}",
            _logarithm([row.log10_paths for row in same]),
            _starved(same),
        ]
        for (method, sparsity), same in cells_of(rows).items()
    ]
    caption = (
        f"Widths before any training, flow of R {counted(images, seeds)}: effective sparsity, output channels on a "
        "path in all layers and in the narrowest, paths as a logarithm, and branches that bring less than "
        f"{STARVED:.0%} of what enters their sum"
    )
    return "\n".join([f"{caption}:", "", markdown(head, lines), *_told(rows)])


def _logarithm(values: Sequence[float]) -> str:
    there = [value for value in values if not math.isinf(value)]
    if not there:
        return "no path"
    fewer = "" if len(there) == len(values) else f" (no path in {len(values) - len(there)} of {len(values)})"
    return f"{mean_of(there):.1f}{fewer}"


def _starved(same: Sequence[WidthRow]) -> str:
    sums = max(len(row.sums) for row in same)
    return f"{mean_of(row.starved for row in same):g} of {sums}" if sums else "no branches"


def _told(rows: Sequence[WidthRow]) -> Iterator[str]:
    for row in rows:
        where = f"{row.method} {row.sparsity:.2%} seed {row.seed}"
        if row.dead:
            yield f"\n{where}: no path passes {', '.join(row.dead)}"
        if starving := [name for name, split in row.sums.items() if starves(split) and row.sparsity]:
            yield f"\n{where}: the branch starves in {', '.join(starving)}"


def said(row: WidthRow) -> str:
    """A row in words."""
    sparsity = f" {row.sparsity:.2%}" if row.sparsity else ""
    paths = "no path" if math.isinf(row.log10_paths) else f"10^{row.log10_paths:.1f} paths"
    return (
        f"{row.method}{sparsity} seed {row.seed}: {row.live_channels:.1%} of the channels live, {paths}, "
        f"{row.starved} of {len(row.sums)} branches starve"
    )
