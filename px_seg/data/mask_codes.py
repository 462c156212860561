"""What the pixels of masks stand for: indices, values or colours, as a file of classes says."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from px_seg.data.base import IGNORE
from px_seg.errors import InputError

VOID = ("void", "ignore", "unlabelled", "unlabeled")
"""Names of what has no label."""

HIGHEST = 65535
"""Value of a pixel of 16 bits."""

EXAMPLE = "background,0 and object,255 on two lines"


class MaskCode(NamedTuple):
    """From what a mask holds to class indices."""

    classes: tuple[str, ...]
    labels: Mapping[int, int]
    """Class index, or 255, of every value, or of every colour as 0xRRGGBB."""
    coloured: bool
    file: Path
    named: bool = False
    """Whether the file has names alone."""

    def __str__(self) -> str:
        shown = [f"{self._shown(code)} {self._name(label)}" for code, label in self.labels.items()]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        return f"masks hold {'colours' if self.coloured else 'values'}: {', '.join(shown[:8])}{more}"

    def prepared(self, mask: Image.Image) -> Image.Image:
        """The mask in the mode that `decoded` takes."""
        if self.coloured:
            return mask.convert("RGB")
        return mask.convert("L") if mask.mode in ("1", "LA") else mask

    def decoded(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """Class indices (H, W) uint8 of a prepared mask, (H, W) or (H, W, 3). InputError for what is no class's."""
        codes = _packed(pixels) if self.coloured else _values(pixels, path)
        known = np.array(sorted(self.labels))
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        if (stray := codes[known[places] != codes]).size:
            what = self._shown(int(stray[0]))
            lossy = ": a JPEG blurs its labels, save masks as PNG" if path.suffix.lower() in (".jpg", ".jpeg") else ""
            way_out = f"add a line for it, NAME,{what}, or void,{what} if it is no label"
            if self.named:
                example = f"{self.classes[0]},0"
                way_out = f"give every line its value, such as {example}, and then NAME,{what}, or void,{what}"
            elif self.coloured:
                way_out += "; where masks hold indices and no colours, write NAME,VALUE on every line"
            raise InputError(f"{path} holds {what}, which {self.file} does not list{lossy}: {way_out}")
        return np.array([self.labels[code] for code in known.tolist()], np.uint8)[places]

    def _shown(self, code: int) -> str:
        return f"#{code:06x}" if self.coloured else str(code)

    def _name(self, label: int) -> str:
        return "void" if label == IGNORE else self.classes[label]


def read_classes(file: Path) -> MaskCode:
    """The classes that a text file names, the background first: a line `name`, `name,value` or `name,colour` for each.

    Lines that begin with # are left out. A colour is #rrggbb, or r,g,b. Lines of names alone stand for the values 0, 1,
    2, ... and 255 for void; otherwise void has lines of its own. Raises InputError for anything else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--data.classes {file} is not a readable UTF-8 text file: {error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if not line.startswith("#")]
    rows = [_row(number, line) for number, line in lines if line]
    kind = _kind(rows[0][2]) if rows else "name"
    if wrong := next((row for row in rows if _kind(row[2]) in (None, *_KINDS.keys() - {kind})), None):
        number, name, code = wrong
        raise InputError(
            f"{file}, line {number}: {f'{name},{code}'!r} is not like the lines before it: every line is a name, or "
            f"name,value, or name,#rrggbb, such as {EXAMPLE}"
        )
    classes: list[str] = []
    labels: dict[int, int] = {}
    for number, name, code in rows:
        void = kind != "name" and name.lower() in VOID
        value = len(classes) if kind == "name" else _code(code)
        if kind == "name" and name.lower() in VOID:
            raise InputError(
                f"{file}, line {number}: {name} is no class, and where no line has a value 255 has no label anyway: "
                "leave that line out, or give every line its value"
            )
        if not name:
            raise InputError(f"{file}, line {number}: a class has no name")
        if name in classes and not void:
            raise InputError(f"{file}, line {number}: {name} is there twice")
        if value in labels:
            raise InputError(f"{file}, line {number}: {code} stands for two classes")
        if value > (HIGHEST if kind == "value" else 0xFFFFFF):
            raise InputError(f"{file}, line {number}: a mask holds values up to {HIGHEST} or colours, not {code}")
        labels[value] = IGNORE if void else len(classes)
        classes += [] if void else [name]
    if kind == "name":
        labels[IGNORE] = IGNORE
    if not 2 <= len(classes) <= IGNORE:
        raise InputError(f"{file} names {len(classes)} classes: it must name 2 to {IGNORE}, the background first")
    return MaskCode(tuple(classes), labels, kind == "colour", file, kind == "name")


def _row(number: int, line: str) -> tuple[int, str, str]:
    name, _, code = line.partition(",")
    return number, name.strip(), code.strip()


_KINDS: Mapping[str, Callable[[str], object]] = {
    "name": lambda code: code == "",
    "value": re.compile(r"\d{1,9}").fullmatch,
    "colour": re.compile(r"#[0-9a-fA-F]{6}|\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}").fullmatch,
}


def _kind(code: str) -> str | None:
    return next((kind for kind, fits in _KINDS.items() if fits(code)), None)


def _code(text: str) -> int:
    if text.startswith("#"):
        return int(text[1:], 16)
    parts = [int(part) for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts[0] << 16 | parts[1] << 8 | parts[2]


def _packed(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _values(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim == 3:
        # Grey that was saved in colour.
        first = pixels[..., :1]
        if not (pixels[..., :3] == first).all():
            raise InputError(f"{path} is in colour, and the classes have values: give them colours, name,#rrggbb")
        pixels = first[..., 0]
    if not np.issubdtype(pixels.dtype, np.integer):
        raise InputError(f"{path} holds fractions, which are no labels: save whole numbers")
    return pixels.astype(np.int64)
