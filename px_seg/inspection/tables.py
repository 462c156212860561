"""Findings as text."""

import csv
import io
from math import prod

from px_seg.data.base import IGNORE
from px_seg.inspection.findings import Findings, Part

SHOWN = 40
"""Classes up to which a terminal has a line for each; the file has all."""


def by_class(findings: Findings) -> list[list[str]]:
    """A line for each class, below the heads: images that have it, and of segmentation the share of labelled pixels."""
    heads, columns = ["class"], list[list[str]]()
    with_pixels = any(part.survey.of_pixels for part in findings.parts.values())
    for what, part in findings.parts.items():
        heads.append(what)
        images = part.survey.images()
        columns.append([str(images[label]) for label in range(len(findings.classes))])
        if with_pixels:
            heads.append("pixels")
            counts = part.survey.pixels()[: len(findings.classes)]
            whole = max(1, int(counts.sum()))
            columns.append([f"{count / whole:.3%}" for count in counts.tolist()])
    return [heads, *map(list, zip(findings.classes, *columns, strict=True))]


def as_csv(findings: Findings) -> str:
    """`by_class` as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(by_class(findings))
    return text.getvalue()


def overview(findings: Findings) -> list[list[str]]:
    """A line for each list of images, below the heads: how many, which sides they have, and how much is void."""
    heads = ["", "images", "smallest", "median", "largest", "sizes"]
    heads += ["void"] if any(part.survey.of_pixels for part in findings.parts.values()) else []
    return [heads, *([what, *_described(part)][: len(heads)] for what, part in findings.parts.items())]


def _described(part: Part) -> list[str]:
    sizes = sorted(((one.width, one.height) for one in part.survey.stored.values()), key=prod)
    places = [sizes[0], sizes[len(sizes) // 2], sizes[-1]] if sizes else []
    shown = [f"{width}x{height}" for width, height in places] or [""] * 3
    pixels = part.survey.pixels()
    void = f"{pixels[IGNORE] / max(1, pixels.sum()):.2%}"
    every = len(part.data) + len(part.data.faults)
    count = str(len(sizes)) if len(sizes) == every else f"{len(sizes)} of {every}"
    return [count, *shown, str(len(set(sizes))), void]
