"""The page of a report: one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from PIL import Image

from px_seg import predictions
from px_seg.data.base import IGNORE
from px_seg.data.palette import voc_colours
from px_seg.errors import InputError
from px_seg.predictions import Prediction
from px_seg.report import tables
from px_seg.report.runs import Panel, Run, own_settings, shared_settings
from px_seg.run.folder import OPERATIONAL
from px_seg.sweep.methods import DENSE
from px_seg.tasks import score_by

SHOWN = 4
"""Validation images shown at every sparsity."""

SMALLEST = 128
"""Height in pixels up to which a sample is enlarged, in whole steps, so that its pixels show as they are."""


def write_page(
    path: Path,
    title: str,
    facts: Sequence[str],
    notes: Sequence[str],
    all_panels: Sequence[Panel],
    figures: Mapping[str, str],
) -> None:
    """Write the page: figures, tables, samples, and the settings of every run.

    `facts` are lines on what was done, `notes` what a reader must know before comparing. `figures` are paths of SVG
    files from its folder, by a text that says what they show; of those that show one panel the text begins with its
    title.
    """
    runs = [run for panel in all_panels for run in panel.runs]
    runs += list({run.folder: run for panel in all_panels for run in panel.dense}.values())
    shared = shared_settings(runs)
    shown = [_shown(panel) for panel in all_panels]
    environment = Environment(loader=PackageLoader("px_seg.report", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"bold": _bold, "name": _name}
    text = environment.get_template("page.html").render(
        title=title,
        facts=facts,
        notes=notes,
        figures={name: _svg(path.parent / file) for name, file in figures.items()},
        panels=shown,
        predicted=any(part["samples"] for part in shown),
        shared={key: value for key, value in shared.items() if key not in OPERATIONAL},
        runs=[_described(run, shared) for run in runs],
        score=all_panels[0].score.title,
    )
    path.write_text(text, encoding="utf-8")


def _bold(cell: str) -> Markup:
    """A table's cell, in which ** makes bold."""
    plain = cell.removeprefix("**").removesuffix("**")
    return Markup("<b>{}</b>" if plain != cell else "{}").format(plain)


def _name(text: str) -> Markup:
    """A name that may be broken before each of a method's settings: on a narrow screen it would hide the numbers."""
    return escape(text).replace("+", Markup("<wbr>+"))


def _shown(panel: Panel) -> dict[str, Any]:
    parts = _samples(panel)
    labels = {int(label) for part in parts for label in part["labels"]} - {IGNORE}
    names = parts[0]["classes"] if parts else []
    colours = voc_colours()
    legend = [(names[label], "#{:02x}{:02x}{:02x}".format(*colours[label])) for label in sorted(labels)]
    return {"title": panel.title, "tables": tables.made(panel), "samples": parts, "legend": legend}


def _samples(panel: Panel) -> list[dict[str, Any]]:
    """For every sparsity the lowest seed's predictions, a row an image: its picture, truth, and what each network says.

    `labels` are those of maps; images that are classified have none. Methods whose runs show no images, or others than
    the first's, are `left_out`.
    """
    found = []
    for sparsity in panel.sparsities:
        methods = [method for method in (DENSE, *panel.methods) if panel.of(method, sparsity)]
        chosen = {method: min(panel.of(method, sparsity), key=lambda run: run.seed) for method in methods}
        stored, classes, left_out = _stored(chosen)
        if not stored:
            continue
        first = next(iter(stored.values()))
        picked = sorted({round(place) for place in np.linspace(0, len(first) - 1, SHOWN)})
        rows = [_row([shown[number] for shown in stored.values()], classes) for number in picked]
        maps = [labels for shown in stored.values() for one in shown for labels in (one.truth, one.predicted)]
        found.append(
            {
                "title": f"{sparsity:.2%}",
                "head": ["image", "truth", *stored],
                "rows": rows,
                "classes": classes,
                "left_out": left_out,
                "labels": {label for labels in maps if labels.ndim == 2 for label in np.unique(labels)},
            }
        )
    return found


def _stored(chosen: Mapping[str, Run]) -> tuple[dict[str, list[Prediction]], list[str], list[str]]:
    """What each method's run shows, the names of the classes, and which methods are left out, and why."""
    stored: dict[str, list[Prediction]] = {}
    classes: list[str] = []
    left_out = []
    for method, run in chosen.items():
        try:
            shown, names = predictions.load(run.folder / "samples.npz")
        except InputError as error:
            left_out.append(f"{method} ({error})")
            continue
        first = next(iter(stored.values()), shown)
        if len(shown) != len(first) or not _same_images(shown, first):
            left_out.append(f"{method} (its run shows other images)")
            continue
        stored[method], classes = shown, names
    return stored, classes, left_out


def _same_images(first: Sequence[Prediction], second: Sequence[Prediction]) -> bool:
    return all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def _row(same: Sequence[Prediction], classes: Sequence[str]) -> list[Markup]:
    """The cells of one image: itself, its truth, and each network's prediction."""
    image, truth = same[0].image, same[0].truth
    cells = [_picture(Image.fromarray(image), "image", "JPEG")]
    if truth.ndim == 0:
        cells.append(escape(classes[int(truth)]))
        for shown in same:
            right = shown.predicted == truth
            text = ("" if right else "\N{BALLOT X} ") + classes[int(shown.predicted)]
            cells.append(Markup('<span class="{}">{}</span>').format("right" if right else "wrong", text))
        return cells
    return cells + [
        _picture(Image.fromarray(labels) if labels.ndim == 3 else _coloured(labels), name)
        for labels, name in [(truth, "truth"), *((shown.predicted, "prediction") for shown in same)]
    ]


def _coloured(labels: np.ndarray) -> Image.Image:
    """Labels in VOC's colours, void white."""
    colours = voc_colours()
    colours[IGNORE] = 255
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.flatten().tolist())
    return picture


def _picture(picture: Image.Image, name: str, kind: str = "PNG") -> Markup:
    factor = max(1, SMALLEST // picture.height)
    large = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    large.save(stream, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img alt="{}" width="{}" height="{}" src="data:image/{};base64,{}">').format(
        name, large.width, large.height, kind.lower(), data
    )


def _svg(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _described(run: Run, shared: Mapping[str, Any]) -> dict[str, Any]:
    results = run.results
    return {
        "cells": [
            *([" ".join(run.group)] if run.group else [""]),
            run.method,
            f"{run.sparsity:.2%}",
            str(run.seed),
            score_by(results).number(run.score),
            f"{results['backbone_sparsity']:.2%}",
            f"{sum(results['seconds'].values()):.0f} s",
            str(results["device"]),
        ],
        "folder": str(run.folder),
        "settings": {k: v for k, v in own_settings(run, shared).items() if k not in OPERATIONAL},
        "notes": results["notes"],
        "versions": results["versions"],
        "empty": results["empty_layers"],
    }
