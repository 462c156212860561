"""Files of images as they come: every reader takes what can be understood, and names what cannot."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from helpers.runs import go
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from px_seg import InputError
from px_seg.data.base import Sample
from px_seg.data.class_folders import ImageFiles
from px_seg.data.images import upright
from px_seg.data.voc import VOC
from px_seg.errors import one_line_errors
from px_seg.tasks import Segmentation

SIZE = 80, 64
"""Width and height, in pixels."""


def image(mode: str = "RGB", size: tuple[int, int] = SIZE, file: str = "PNG") -> Callable[[Path], None]:
    """A writer of images of labels that VOC has, whatever the mode."""

    def write(path: Path) -> None:
        levels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]) % 3
        if mode.startswith("I;16"):
            picture = Image.fromarray(levels.astype(np.uint16) * 300)
        elif mode == "F":
            picture = Image.fromarray(levels.astype(np.float32))
        else:
            picture = Image.fromarray(levels).convert(mode)
        picture.save(path, file)

    return write


def cut(file: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 3, SIZE[::-1], dtype=np.uint8)
        Image.fromarray(noise).save(path, file)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def deep(file: str) -> Callable[[Path], None]:
    """Three channels of 16 bits, which Pillow does not write."""
    values = np.zeros((*SIZE[::-1], 3), np.uint16)
    return lambda path: path.write_bytes(cv2.imencode(file, values)[1].tobytes()) and None


def bomb(path: Path) -> None:
    """A PNG of a kilobyte that says it has 10^10 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def loop(path: Path) -> None:
    other = path.with_name("other")
    other.symlink_to(path)
    path.symlink_to(other)


class Fault(NamedTuple):
    """A file, and what comes of it: the pattern of the message, or nothing where it is read."""

    write: Callable[[Path], object]
    image: str = ""
    """As a photograph of VOC's or of a class."""
    mask: str = ""
    predicted: str = ""
    """As an image to be labelled."""
    shape: tuple[int, int] = SIZE[::-1]


def everywhere(write: Callable[[Path], object], pattern: str) -> Fault:
    return Fault(write, pattern, pattern, pattern)


UNREADABLE = "is not a readable image"
GONE = r"is missing|has gone missing|lists an image that is missing|not a readable image \(.*Too many levels"

FAULTS = {
    "empty": everywhere(lambda path: path.write_bytes(b""), UNREADABLE),
    "text": everywhere(lambda path: path.write_text("<html>404</html>"), UNREADABLE),
    "JPEG cut off": everywhere(cut("JPEG"), UNREADABLE),
    "PNG cut off": everywhere(cut("PNG"), UNREADABLE),
    "decompression bomb": everywhere(bomb, UNREADABLE),
    "folder": everywhere(lambda path: path.mkdir(), "is not a file|is missing|an image that is missing"),
    "pipe": everywhere(lambda path: os.mkfifo(path), "is not a file|is missing|an image that is missing"),
    "loop of links": everywhere(loop, GONE),
    "link to nowhere": everywhere(lambda path: path.symlink_to("nowhere"), GONE),
    "GIF by another name": Fault(image(file="GIF")),
    "grey": Fault(image("L")),
    "grey with transparency": Fault(image("LA"), mask="is a LA image"),
    "palette": Fault(image("P")),
    "black and white": Fault(image("1"), mask="is a 1 image"),
    "RGB": Fault(image("RGB"), mask="is a RGB image: a mask is a palette PNG"),
    "RGBA": Fault(image("RGBA"), mask="is a RGBA image"),
    "CMYK": Fault(image("CMYK", file="JPEG"), mask="is a CMYK image"),
    "16 bits": Fault(image("I;16"), mask="is a I;16 image"),
    "16 bits in colour": Fault(deep(".png"), mask="is a RGB image"),
    "16 bits in colour, TIFF": Fault(deep(".tiff"), mask="is a RGB image"),
    "floating point": Fault(image("F", file="TIFF"), "no known range", "is a F image", "no known range"),
    "whole numbers of 32 bits": Fault(image("I", file="TIFF"), "no known range", "is a I image", "no known range"),
    "a pixel": Fault(
        image("L", (1, 1)), "is 1x1 pixels: each side must have at least 8", "is 1x1 pixels, but", shape=(1, 1)
    ),
    "a line": Fault(
        image("L", (1, 5000)), "is 1x5000 pixels: each side must have at least 8", "is 1x5000", shape=(5000, 1)
    ),
    "a strip": Fault(image("L", (8, 5000)), mask="is 8x5000 pixels, but", shape=(5000, 8)),
    "20 megapixels": Fault(image("L", (5000, 4000)), mask="is 5000x4000 pixels, but", shape=(4000, 5000)),
}


def check(read: Callable[[], np.ndarray], pattern: str, shape: tuple[int, ...], path: Path) -> None:
    if not pattern:
        found = read()
        assert (found.shape, found.dtype) == (shape, np.uint8)
        return
    with pytest.raises(InputError, match=pattern) as error:
        read()
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def third(voc: Path) -> Sample:
    data = VOC(voc, "train")
    for fault in data.faults:
        raise InputError(fault)
    return data[2]


@pytest.mark.parametrize("name", FAULTS)
def test_a_photograph_of_a_segmentation_set(voc: Path, name: str) -> None:
    fault = FAULTS[name]
    path = voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "train_2.jpg"
    mask = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "train_2.png"
    path.unlink()
    fault.write(path)
    image("L", fault.shape[::-1])(mask)
    check(lambda: third(voc).image, fault.image, (*fault.shape, 3), path)


@pytest.mark.parametrize("name", FAULTS)
def test_a_mask(voc: Path, name: str) -> None:
    fault = FAULTS[name]
    path = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "train_2.png"
    path.unlink()
    fault.write(path)
    check(lambda: third(voc).mask, fault.mask, fault.shape, path)


@pytest.mark.parametrize("name", FAULTS)
def test_an_image_of_a_class(tmp_path: Path, name: str) -> None:
    fault, path = FAULTS[name], tmp_path / "images" / "one.jpg"
    path.parent.mkdir()
    fault.write(path)
    data = ImageFiles({"a": [path], "b": []}, None, "here")
    check(lambda: data[0].image, fault.image, (*fault.shape, 3), path)
    # The check of all images before a run reads less of them, and refuses the same.
    if fault.image:
        with pytest.raises(InputError, match=fault.image):
            data.stored(0)
    else:
        data.stored(0)


@pytest.mark.parametrize("name", FAULTS)
def test_an_image_to_be_labelled(tmp_path: Path, name: str) -> None:
    fault, path = FAULTS[name], tmp_path / "images" / "one.jpg"
    path.parent.mkdir()
    fault.write(path)
    check(lambda: upright(path).pixels, fault.predicted, (*fault.shape, 3), path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_the_system_does_not_give_is_named(voc: Path, monkeypatch, error: OSError) -> None:
    data = VOC(voc, "train")

    def refuse(path: Path, *given: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", refuse)
    for read in (lambda: data[0], lambda: upright(data.files(0)[0]).pixels):
        with pytest.raises(InputError, match=rf"train_0.jpg .*{error.strerror}"):
            read()


def read_or_refused(read: Callable[[], np.ndarray], path: Path) -> None:
    refusals = []
    try:
        found = read()
        assert (found.ndim, found.shape[2], found.dtype) == (3, 3, np.uint8)
    except InputError as error:
        refusals.append(str(error))
    assert all(path.name in said and "\n" not in said for said in refusals)


@pytest.mark.parametrize("file", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_damaged_file_is_read_or_refused_and_breaks_nothing(tmp_path: Path, file: str) -> None:
    path = tmp_path / f"damaged.{file.lower()}"
    image("RGB", (24, 16), file)(path)
    whole = path.read_bytes()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def damage(changes: list[tuple[int, int]]) -> None:
        content = bytearray(whole)
        for place, value in changes:
            content[place] = value
        path.write_bytes(content)
        for read in (lambda: upright(path).pixels, lambda: ImageFiles({"a": [path], "b": []}, None, "")[0].image):
            read_or_refused(read, path)

    damage()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_while_a_run_reads_it_is_named(voc: Path, tmp_path, workers: int) -> None:
    """It was found good, and is not read again before training: neither size nor time have changed."""
    flags = ("--data.name", "voc2012", "--data.root", voc, "--data.size", 32, "--data.workers", workers)
    flags += ("--encoder", "tu-test_resnet", "--weights", "none", "--method", "random", "--sparsity", 0.5)
    flags += ("--batch_size", 4, "--output_dir", tmp_path / "out")
    go(*flags, "--epochs", 0)
    path = voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "train_3.jpg"
    about, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:200] + bytes(len(content) - 200))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(InputError, match=r"train_3.jpg is not a readable image .*: replace or remove it$") as error:
        go(*flags, "--epochs", 1, "--overwrite")
    assert "\n" not in str(error.value)


class Killed(Segmentation):
    """Its data loader's process is killed."""

    def __init__(self, config) -> None:
        super().__init__(config)
        parent, read = os.getpid(), self.train.transform.packed

        def die(sample, seed):
            if os.getpid() != parent:
                os.kill(os.getpid(), 9)
            return read(sample, seed)

        self.train.transform.packed = die


def test_a_data_loader_that_is_killed_is_said_in_one_line(tiny: Path, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        go("--config", tiny, "--data.workers", 1, "--output_dir", tmp_path / "out", task=Killed)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: a process that loads images has died, mostly for want of memory: lower --data.work")


class Broken(Segmentation):
    """Its transform fails on an image, as a library's defect would have it."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.train.transform.packed = lambda sample, seed: 1 // 0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_library_names_the_image(voc: Path, tmp_path, workers: int) -> None:
    flags = ("--data.name", "voc2012", "--data.root", voc, "--data.size", 32, "--data.workers", workers)
    flags += ("--encoder", "tu-test_resnet", "--weights", "none", "--method", "random", "--sparsity", 0.5)
    with pytest.raises(ZeroDivisionError) as error:
        go(*flags, "--epochs", 1, "--batch_size", 4, "--output_dir", tmp_path / "out", task=Broken)
    said = "".join([str(error.value), *getattr(error.value, "__notes__", [])])
    assert "while preparing" in said
    assert ".jpg" in said
