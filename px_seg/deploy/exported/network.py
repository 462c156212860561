"""An exported file as a module."""

import base64
import tempfile
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from px_seg.deploy.card import Card
from px_seg.deploy.exported.onnx_file import PROVIDERS, Runtime, open_onnx
from px_seg.deploy.exported.openvino_file import open_openvino, weights_beside
from px_seg.errors import InputError, one_line
from px_seg.models import tell_normalisation
from px_seg.pruning import Masks

FILES = {"onnx": "model.onnx", "openvino": "model.xml", "int8": "model.int8.xml"}
"""By format, in a folder of exported files."""

LARGEST = 2**28
"""Bytes of masks, one bit a weight, that are made room for because a file says so."""


class Exported(nn.Module):
    """A network that another runtime carries out: images (N, 3, H, W), normalised, to logits, both on one device.

    It has no parameters, computes in float32, in TensorRT perhaps in TF32, and pads images of any size itself.
    """

    output_stride = 1

    def __init__(self, file: Path, runtime: Runtime, card: Card) -> None:
        super().__init__()
        self.file, self.card = file, card
        self._runtime = runtime
        tell_normalisation(self, card.normalisation)

    def forward(self, images: Tensor) -> Tensor:
        """Raises InputError for images that the network does not take."""
        multiple = self.card.multiple
        if any(side % multiple for side in images.shape[-2:]):
            raise InputError(f"{self.file} takes images whose sides {multiple} divides, got {tuple(images.shape)}")
        try:
            logits = self._runtime.logits(images.detach().to(self._runtime.device, torch.float32).contiguous())
        except Exception as error:
            # Neither runtime has a class for what it raises.
            raise InputError(f"{self.file} does not take {tuple(images.shape)}: {one_line(error, 160)}") from error
        return logits.to(images.device)

    def masks(self) -> Masks | None:
        """The masks that the network was trained under, by the names of its weights in px_seg; None for a dense one.

        Raises InputError where they are damaged.
        """
        held = self._runtime.notes.get("masks")
        if held is None:
            return None
        try:
            return unpacked(held)
        except (ValueError, zlib.error) as error:
            raise InputError(f"the masks in {self.file} are damaged: {one_line(error, 100)}") from None


def open_exported(file: str | Path, where: str = "cpu") -> Exported:
    """A file that `px_seg export` wrote: .onnx, or .xml with its .bin beside it.

    `where` is "cpu", or for ONNX "cuda" or "tensorrt", on a GPU. Raises InputError for any other file, and where the
    package that runs it is missing, or cannot run it there.
    """
    file = Path(file)
    if where not in PROVIDERS:
        raise InputError(f"exported files run on {', '.join(PROVIDERS)}, not on {where}")
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if file.suffix not in (".onnx", ".xml"):
        raise InputError(f"{file} is no exported network: px_seg export writes .onnx and .xml")
    if file.suffix == ".xml" and where != "cpu":
        raise InputError(f"{file} runs on the CPU: give the ONNX file for {where}")
    runtime = open_onnx(file, where) if file.suffix == ".onnx" else open_openvino(file)
    try:
        return Exported(file, runtime, Card.of_text(runtime.notes["card"]))
    except (KeyError, ValueError):
        raise InputError(f"{file} has no card of px_seg in it: give a file that px_seg export wrote") from None


def files_of(file: Path) -> list[Path]:
    """An exported file, and the file of its weights where these are beside it."""
    return [file, weights_beside(file)] if file.suffix == ".xml" else [file]


def notes_of(card: Card, masks: Masks | None) -> dict[str, str]:
    """What travels in an exported file: the card, and the masks as `packed` writes them."""
    return {"card": card.as_text(), **({} if masks is None else {"masks": packed(masks)})}


def packed(masks: Masks) -> str:
    """Masks as text: the file that `Masks.save` writes, compressed, in base64."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "masks.safetensors"
        masks.save(file)
        return base64.b64encode(zlib.compress(file.read_bytes())).decode()


def unpacked(text: str) -> Masks:
    """Masks that `packed` wrote. ValueError or zlib.error for any other text, and for one that stands for too much."""
    unzip = zlib.decompressobj()
    content = unzip.decompress(base64.b64decode(text), LARGEST)
    if not unzip.eof:
        raise ValueError(f"they are cut off, or take more than {LARGEST:,} bytes")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "masks.safetensors"
        file.write_bytes(content)
        return Masks.load(file)
