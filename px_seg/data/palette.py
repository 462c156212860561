"""The colours of Pascal VOC."""

import numpy as np
from PIL import Image


def voc_colours() -> np.ndarray:
    """(256, 3) uint8 RGB, the colour of every label in VOC's masks.

    The bits of a label are dealt to red, green and blue in turn, the lowest first, and fill
    each channel from its highest bit down.
    """
    labels = np.arange(256, dtype=np.uint8)
    bits = (labels[:, None] >> np.arange(8, dtype=np.uint8)) & 1
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= bits[:, bit] << (7 - bit // 3)
    return colours


def indexed(labels: np.ndarray) -> Image.Image:
    """Labels (H, W), 0 to 255, as VOC stores them: a picture of one byte a pixel, and the colours beside it."""
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(voc_colours().flatten().tolist())
    return picture
