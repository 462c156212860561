"""The pictures of a run."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from torch import Tensor

from px_seg.curves import BLUE, GREY, ORANGE, RED
from px_seg.data.base import IGNORE
from px_seg.data.palette import voc_colours
from px_seg.metrics import Score
from px_seg.pruning import Masks


def curves(path: Path, history: Sequence[Mapping[str, Any]], scores: Sequence[Score], title: str) -> None:
    """Loss, validation scores and learning rates against the epoch.

    `history` has a mapping an epoch, as in metrics.jsonl, epoch 0 being the network before training; `scores` are
    those to draw, in the unit of results.json.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, quality, rates = figure.subplots(1, 3)
    panels = (
        (loss, {"training loss": "loss"}, "loss"),
        (quality, {score.label: score.name for score in scores}, "on validation images"),
        (rates, {"backbone": "backbone_lr", "head": "head_lr"}, "learning rate"),
    )
    for axes, lines, ylabel in panels:
        # The second line is dashed, so that the first shows where the two coincide.
        for (name, key), colour, style in zip(lines.items(), (BLUE, ORANGE), ("o-", "o--"), strict=False):
            points = [(line["epoch"], line[key]) for line in history if key in line]
            axes.plot(*zip(*points, strict=True), style, color=colour, markersize=3, label=name)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    if len(scores) == 1:
        quality.set_ylabel(f"{scores[0].label} on validation images")
    loss.set_ylim(bottom=0)
    if scores[0].limits is not None:
        quality.set_ylim(*scores[0].limits)
    rates.set_ylim(bottom=0)
    figure.suptitle(_wrapped(title, figure))
    figure.savefig(path, dpi=120)


def layer_densities(path: Path, masks: Masks, scope: str, title: str) -> None:
    """One bar per layer, from the input to the output, for the share of its weights that live.

    A layer without any is marked by a red triangle; a bar too low to see has its number. Names are
    shown without `scope`.
    """
    densities = masks.densities()
    names = [name.removesuffix(".weight").removeprefix(f"{scope}.") for name in densities]
    figure = Figure(figsize=(max(7, 0.2 * len(names)), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(names)), list(densities.values()), color=BLUE, width=0.8)
    axes.axhline(masks.density, color=ORANGE, linestyle="--", label=f"all layers together: {masks.density:.2%}")
    for place, density in enumerate(densities.values()):
        if density == 0:
            axes.plot(place, 0, "v", color=RED, clip_on=False)
        elif density < 0.02:
            axes.text(place, density + 0.02, f"{density:.2%}", rotation=90, ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="weights kept", xlim=(-0.7, len(names) - 0.3), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower right", fontsize=9)
    axes.set_title(_wrapped(title, figure))
    figure.savefig(path, dpi=120)


def segmentations(
    path: Path, rows: Sequence[tuple[Tensor, Tensor, Tensor]], classes: Sequence[str], title: str
) -> None:
    """Images (H, W, 3) uint8 over their true and predicted labels (H, W), one column each.

    Labels are in VOC's colours, named in a legend; void pixels are white in the truth.
    """
    colours = voc_colours()
    colours[IGNORE] = 255
    figure = Figure(figsize=(2.1 * len(rows), 7.2), layout="constrained")
    grid = figure.subplots(3, len(rows), squeeze=False)
    for column, (image, truth, predicted) in enumerate(rows):
        for axes, picture in zip(
            grid[:, column], (image.numpy(), colours[truth.numpy()], colours[predicted.numpy()]), strict=True
        ):
            framed(axes, picture)
    for axes, name in zip(grid[:, 0], ("image", "truth", "prediction"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    shown = sorted({int(name) for _, *labels in rows for part in labels for name in part.unique()} - {IGNORE})
    name_labels(figure, shown, classes)
    figure.suptitle(_wrapped(title, figure))
    figure.savefig(path, dpi=120)


NAMED = 60
"""Labels that a legend names."""


def framed(axes: Axes, picture: np.ndarray) -> None:
    """Show a picture (H, W, 3) uint8 as it is, in a thin frame."""
    axes.set_axis_on()
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GREY)


def name_labels(figure: Figure, labels: Sequence[int], classes: Sequence[str]) -> None:
    """A legend below the figure: the classes of these labels in VOC's colours, and void in white."""
    colours = voc_colours()
    patches = [
        Patch(facecolor=colours[label] / 255, edgecolor=GREY, label=_short(classes[label])) for label in labels[:NAMED]
    ]
    if len(labels) > NAMED:
        patches.append(Patch(facecolor="none", edgecolor="none", label=f"and {len(labels) - NAMED} more"))
    patches.append(Patch(facecolor="white", edgecolor=GREY, label="void (ignored)"))
    legend = figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def classifications(
    path: Path, rows: Sequence[tuple[Tensor, int, int, float | None]], classes: Sequence[str], title: str
) -> None:
    """Images (H, W, 3) uint8 with true class, predicted class and, where there is one, the latter's probability.

    Wrong predictions are framed in red and begin with a cross.
    """
    columns = min(5, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.3 * columns, 0.5 + 2.7 * lines), layout="constrained")
    for axes in (grid := figure.subplots(lines, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, (image, truth, predicted, probability) in zip(grid.flat, rows, strict=False):
        axes.set_axis_on()
        axes.imshow(image.numpy(), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        right = truth == predicted
        axes.spines[:].set(color=GREY if right else RED, linewidth=1 if right else 2.5)
        sure = "" if probability is None else f" ({probability:.0%})"
        lines_below = [f"{'' if right else '✗ '}{_short(classes[predicted])}{sure}"]
        lines_below += [] if right else [f"is {_short(classes[truth])}"]
        text = axes.set_xlabel("\n".join(lines_below), fontsize=9, color="black" if right else RED)
        text.set_parse_math(False)
    figure.suptitle(_wrapped(title, figure))
    figure.savefig(path, dpi=120)


LABELLED = 40
"""Classes up to which they are named beside a confusion matrix."""

NUMBERED = 25
"""Classes up to which its cells have numbers."""


def confusion(path: Path, counts: Sequence[Sequence[int]], classes: Sequence[str], what: str, title: str) -> None:
    """The shares in which every true class, a row, is predicted as each class, a column, from `counts` of them.

    A class that does not occur has an empty row. `what` names the things counted, such as pixels.
    """
    table = np.array(counts, dtype=float)
    wholes = table.sum(1, keepdims=True)
    shares = np.divide(table, wholes, out=np.full_like(table, np.nan), where=wholes > 0)
    side = min(12.0, max(4.2, 0.32 * len(classes) + 2.2))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    edges: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.3} if len(classes) <= LABELLED else {}
    image = axes.pcolormesh(shares, cmap="cividis", vmin=0, vmax=1, rasterized=True, **edges)
    if len(classes) <= NUMBERED:
        for row, column in np.argwhere(shares >= 0.005).tolist():
            share = shares[row, column]
            text = f"{100 * share:.0f}"
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color="k" if share > 0.5 else "w"
            )
    if len(classes) <= LABELLED:
        places = np.arange(len(classes)) + 0.5
        names = [_short(name) for name in classes]
        for labels in (
            axes.set_xticks(places, names, rotation=90, fontsize=8),
            axes.set_yticks(places, names, fontsize=8),
        ):
            for label in labels:
                label.label1.set_parse_math(False)
    axes.invert_yaxis()
    axes.set(xlabel="predicted", ylabel="true", aspect="equal")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label=f"of the {what} of a true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.suptitle(_wrapped(title, figure), fontsize=10)
    figure.savefig(path, dpi=120)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"


def heat_maps(
    path: Path,
    panels: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[str],
    columns: Sequence[str],
    score: Score,
    title: str,
) -> None:
    """Tables of scores side by side, coloured alike, each by its name.

    A row is what was pruned on, a column what that was tried on; a row's own column is bold, and a row `dense` is set
    apart.
    """
    width, height = 1.9 + 0.62 * len(columns), 1.9 + 0.42 * len(rows)
    figure = Figure(figsize=(max(6.5, 0.9 + width * len(panels)), height), layout="constrained")
    panels = {name: [[score.in_units(value) for value in row] for row in table] for name, table in panels.items()}
    values = [value for table in panels.values() for row in table for value in row]
    low, high = min(values), max(values)
    digits = max(0, score.digits - 2)
    for axes, (name, table) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        image = axes.imshow(table, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for row, cells in enumerate(table):
            for column, value in enumerate(cells):
                dark = value < (low + high) / 2
                own = {"weight": "bold"} if rows[row] == columns[column] else {}
                axes.text(
                    column, row, f"{value:.{digits}f}", ha="center", va="center", color="w" if dark else "k", **own
                )
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        if rows[0] == "dense":
            axes.axhline(0.5, color="w", linewidth=4)
        axes.set(title=name, xlabel="tried on", ylabel="pruned on")
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.9, ticks=MaxNLocator(6, steps=[1, 2, 5, 10]))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{score.unit}"))
    figure.suptitle(_wrapped(title, figure))
    figure.savefig(path, dpi=120)


def _wrapped(title: str, figure: Figure) -> str:
    """The title in lines that fit the figure's width."""
    return textwrap.fill(title, int(10.5 * figure.get_figwidth()))


def growth(path: Path, rows: Sequence[Mapping[str, Any]], device: str) -> None:
    """Time and peak memory of a round of PX as multiples of inference's, one panel for each thing varied.

    `rows` as `px_seg.benchmark.px.report_growth` writes them.
    """
    varied = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(2.6 * len(varied), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(varied), sharey=True), varied, strict=True):
        part = [row for row in rows if row["varied"] == name]
        places = range(len(part))
        axes.plot(places, [row["ratio"] for row in part], "o-", color=BLUE, label="time")
        axes.plot(places, [row["memory_ratio"] for row in part], "s--", color=ORANGE, label="peak memory")
        axes.set_xticks(places, [str(row["value"]).removeprefix("resnet") for row in part])
        axes.set(xlabel={"encoder": "ResNet", "side": "image side"}.get(name, name.replace("_", " ")))
        axes.axhline(2, color=GREY, linewidth=1)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("one round / inference")
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].legend()
    figure.suptitle(f"A round of PX against inference over the same batches, DeepLabV3+ ({device})")
    figure.savefig(path, dpi=120)
