"""Predicted labels laid over their image."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from px_seg.data.palette import voc_colours

_SHARE = 0.55
"""Of the colour of a label in a pixel; the background's pixels stay as they are."""

_TEXT = 14
"""Height of the legend's letters, in pixels."""


def blended(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: an image, and over it the labels (H, W) in VOC's colours, label 0 left out."""
    mixed = (1 - _SHARE) * image + _SHARE * voc_colours()[labels]
    return np.where(labels[..., None] > 0, mixed.round(), image).astype(np.uint8)


def shares(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The share of the pixels of every class that is there, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    order = [label for label in np.argsort(-counts, kind="stable") if counts[label]]
    return {classes[label]: round(float(counts[label] / labels.size), 6) for label in order}


def overlay(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """The image with its labels over it, and below it a legend of the classes that are there, with their shares."""
    found = shares(labels, classes)
    texts = {name: f"{name} {f'{share:.1%}' if share >= 0.001 else '< 0.1%'}" for name, share in found.items()}
    return with_legend(Image.fromarray(blended(image, labels)), texts, classes)


def with_legend(picture: Image.Image, texts: Mapping[str, str], classes: Sequence[str]) -> Image.Image:
    """A picture, and below it the colours of some classes, each with a text."""
    font, gap = ImageFont.load_default(_TEXT), _TEXT // 2
    colours, numbers = voc_colours(), {name: label for label, name in enumerate(classes)}
    widths = {name: 3 * gap + _TEXT + int(font.getlength(text)) for name, text in texts.items()}
    width = max(picture.width, *widths.values())
    lines: list[list[str]] = [[]]
    for name in texts:
        if lines[-1] and sum(widths[other] for other in (*lines[-1], name)) > width:
            lines.append([])
        lines[-1].append(name)
    height = _TEXT + gap
    page = Image.new("RGB", (width, picture.height + gap + height * len(lines)), "white")
    page.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        left, top = gap, picture.height + gap + row * height
        for name in line:
            box = (left, top, left + _TEXT - 1, top + _TEXT - 1)
            # The background is not coloured in the picture.
            fill = tuple(int(value) for value in colours[numbers[name]]) if numbers[name] else "white"
            pen.rectangle(box, fill=fill, outline="grey")
            pen.text((left + _TEXT + gap, top - 2), texts[name], "black", font)
            left += widths[name]
    return page
