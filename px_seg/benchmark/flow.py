"""How much of R flows through the branches of a residual network while it is pruned, with and without conservation."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import nn

from px_seg.analysis import flow
from px_seg.benchmark.px import SCOPE, Case
from px_seg.errors import InputError
from px_seg.models import build_classifier
from px_seg.models.encoders import check_encoder
from px_seg.pruning import PX, Masks, prune

LOWEST = 1e-8
"""Where the axis ends; a branch with less is drawn on its edge."""


def flows(model: nn.Module, masks: Masks, x: list[torch.Tensor]) -> dict[str, float]:
    """The share of R that enters every residual sum through its branch, by the name of the block."""
    return {name.removeprefix(f"{SCOPE}."): split.branch for name, split in flow(model, x, masks).sums.items()}


def report_flow(case: Case, folder: Path) -> None:
    """Write flow.csv, a row a round and block, and flow.png, both readings side by side.

    Of a classifier on `case.encoder`, a ResNet with random weights, on images of noise. Raises InputError for another
    kind of encoder.
    """
    check_encoder(case.encoder)
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    model = build_classifier(case.encoder, weights=None).eval()
    shape = (case.batches, case.batch_size, 3, case.side, case.side)
    x = list(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    if not flows(model, Masks.ones(model, SCOPE), x):
        raise InputError(f"{case.encoder} has no residual branches: choose a ResNet")
    rows: list[dict[str, Any]] = []
    for c in (0.0, 1.0):

        def note(number: int, masks: Masks, c: float = c) -> None:
            for block, share in flows(model, masks, x).items():
                rows.append({"conserve": c, "round": number, "density": masks.density, "block": block, "share": share})

        note(0, Masks.ones(model, SCOPE))
        prune(model, x, case.sparsity, PX(conserve=c), SCOPE, case.rounds, on_round=note)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "flow.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _draw(folder / "flow.png", rows, case)


def _draw(path: Path, rows: list[dict[str, Any]], case: Case) -> None:
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    shades = colormaps["cividis"](np.linspace(0, 1, len(blocks)))
    panels = {0.0: "PX, conserve = 0", 1.0: "px_conserved, conserve = 1"}
    for axes, (c, title) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        for number, block in enumerate(blocks):
            own = [row for row in rows if (row["conserve"], row["block"]) == (c, block)]
            points = [(row["round"], max(row["share"], LOWEST)) for row in own]
            axes.semilogy(*zip(*points, strict=True), color=shades[number], label=block)
        axes.set(title=title, xlabel="round", ylim=(LOWEST, 1.5))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of R that passes the branch")
    figure.axes[0].yaxis.set_major_formatter(
        FuncFormatter(lambda share, _: f"≤ {share:.0e}" if share <= LOWEST else f"{share:g}")
    )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, title="branch of")
    figure.suptitle(f"{case.encoder} with random weights, pruned to {case.sparsity:.1%} in {case.rounds} rounds")
    figure.savefig(path, dpi=150)
