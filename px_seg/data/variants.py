"""Which pictures are variants of one: mirrored, resized, recoloured, or a light and a dark shade.

They are recognised by content where possible: the detail of two variants agrees, whatever their brightness and colour,
and that of two pictures does not. Content cannot reveal a variant that was drawn anew (a light and a dark
wallpaper of one design) or a mirror image with its lettering put right; there the file names do.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from px_seg.data.images import opened

SIDE = 64
"""Side, in pixels, that pictures are brought to before they are compared."""

SCALE = 4.0
"""Standard deviation, in these pixels, of the blur below which a difference in brightness is not detail."""

AGREE = 0.74
"""Correlation of detail above which two pictures are variants.

Measured on the stamps and backgrounds of `px_seg.data.photo`, all 320 against all: variants have 0.81 (wood-d and
wood-l) and more, pictures of different things 0.66 (Neptune and Uranus, two smooth balls) and less. In between is
nothing; the variants that were drawn anew have 0.02 to 0.66.
"""

FAINT = 1 / 255
"""Root mean square of detail, in shares of white, at which it is rounding error and says nothing."""

NAMED = re.compile(r"(?:_mirror|-d|-l)$")
"""What the names of variants of one picture differ by: Tux Paint's mirror images, GNOME's dark and light shades."""


PACKAGED = "contents"
"""The folder in which KDE's packages keep one wallpaper in several shapes and shades."""


def grouped(paths: Sequence[Path], root: Path) -> list[list[Path]]:
    """The pictures, all below `root`, variants of one together, groups and members in the order given.

    A variant of a variant belongs to the group too. Raises InputError for a file that is not a readable image.
    """
    if not paths:
        return []
    details = np.stack([_detail(path) for path in paths])
    alike = np.maximum(_correlations(details, details), _correlations(details, details[:, :, ::-1])) > AGREE
    names = [_name(path.relative_to(root)) for path in paths]
    groups: list[list[int]] = []
    for index, name in enumerate(names):
        joined = [group for group in groups if any(alike[index, member] or name == names[member] for member in group)]
        rest = [group for group in groups if group not in joined]
        groups = [*rest, [*(member for group in joined for member in group), index]]
    groups = sorted(sorted(group) for group in groups)
    return [[paths[index] for index in group] for group in groups]


def _name(path: Path) -> Path:
    """What the file is called, less what variants differ by; of a wallpaper of KDE, in several shapes, its folder."""
    if PACKAGED in path.parts:
        return Path(*path.parts[: path.parts.index(PACKAGED)])
    return path.parent / NAMED.sub("", path.stem)


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, N): every one of (N, SIDE, SIDE) with every other."""
    return np.einsum("ahw,bhw->ab", one, other, optimize=True)


def _detail(path: Path) -> np.ndarray:
    """(SIDE, SIDE), of norm 1: by how much each pixel is brighter than those around it, 0 outside the object.

    In multiples of what is usual around it, because a dark shade is darker in some places than in others. All 0,
    like nothing, where the picture has no detail.
    """
    brightness, opacity = _small(path)
    # Blurs of what lies inside the object: its outline is not detail, or all balls would be alike.
    inside = np.maximum(gaussian_filter(opacity, SCALE), 1e-3)
    detail = brightness - opacity * gaussian_filter(brightness, SCALE) / inside
    if np.sqrt((detail**2).sum() / opacity.sum()) < FAINT:
        return np.zeros_like(detail)
    # Two to three grey levels are added, so that noise in smooth places does not count as much as detail elsewhere.
    detail /= np.sqrt(gaussian_filter(detail**2, SCALE) / inside) + 0.01
    return detail / np.linalg.norm(detail)


def _small(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Brightness times opacity, and opacity, both (SIDE, SIDE) in [0, 1], of what is not transparent in the picture."""
    image = opened(path, 4 * SIDE).convert("RGBA")
    box = image.getchannel("A").point(lambda opacity: 255 * (opacity > 127)).getbbox()
    small = image.crop(box).convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small, float) / 255
    return values[..., :3].mean(-1), np.maximum(values[..., 3], 1e-6)
