"""A few samples of a dataset as a picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from px_seg.data.base import IGNORE, Sample
from px_seg.data.images import as_rgb
from px_seg.data.palette import voc_colours
from px_seg.inspection.findings import Findings
from px_seg.plots import framed, name_labels
from px_seg.tasks.base import TRAINING, spread

ROWS = 3
"""And as many samples in each."""

SIDE = 320
"""Pixels of a side above which a sample is shown smaller."""


def draw(path: Path, findings: Findings, title: str) -> None:
    """Nine training samples, evenly spread over all that can be used: image and mask side by side, or image and class.

    Nothing where there is none.
    """
    part = findings.parts[TRAINING]
    usable = list(part.survey.stored)
    samples = [part.data[usable[place]] for place in spread(len(usable), ROWS * ROWS)] if usable else []
    if not samples:
        return
    title = f"{title}: {len(samples)} of {len(part.data)} training images"
    with warnings.catch_warnings():
        # A letter that the font lacks is a box, and no reason for a line of it.
        warnings.filterwarnings("ignore", message="Glyph")
        if isinstance(samples[0], Sample):
            _masks(path, samples, findings.classes, title)
        else:
            _classes(path, samples, findings.classes, title)


def _masks(path: Path, samples: Sequence[Sample], classes: Sequence[str], title: str) -> None:
    colours = voc_colours()
    colours[IGNORE] = 255
    lines = -(-len(samples) // ROWS)
    figure = Figure(figsize=(11, 1.95 * lines + 1.2), layout="constrained")
    grid = figure.subplots(lines, 2 * ROWS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, sample in enumerate(samples):
        places = grid[number // ROWS, 2 * (number % ROWS) :]
        framed(places[0], _smaller(as_rgb(sample.image)))
        framed(places[1], colours[_smaller(sample.mask)])
    labels = {int(label) for sample in samples for label in np.unique(sample.mask)}
    name_labels(figure, sorted(labels - {IGNORE}), classes)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)


def _classes(path: Path, samples: Sequence[Any], classes: Sequence[str], title: str) -> None:
    lines = -(-len(samples) // ROWS)
    figure = Figure(figsize=(6.6, 2.3 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, ROWS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, sample in zip(grid.flat, samples, strict=False):
        framed(axes, _smaller(sample.image))
        axes.set_xlabel(classes[sample.label][:30], fontsize=9).set_parse_math(False)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """Pixels left out in even steps, so that labels stay what they are."""
    step = -(-max(pixels.shape[:2]) // SIDE)
    picture = Image.fromarray(pixels)
    sides = max(1, picture.width // step), max(1, picture.height // step)
    return np.array(picture.resize(sides, Image.Resampling.NEAREST))
