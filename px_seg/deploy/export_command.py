"""The command `export`: the network of a finished run in files that other runtimes read."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.deploy.arguments import Parser, add_threads, from_one_on, set_threads
from px_seg.deploy.card import Card, read_card
from px_seg.deploy.evaluating import Images, Row, evaluate, images_of, table
from px_seg.deploy.exported import files_of, open_exported, quantise, write_onnx, write_openvino
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.exported.network import FILES, notes_of
from px_seg.deploy.exported.onnx_file import difference_of, multiple_of
from px_seg.deploy.exported.openvino_file import open_openvino
from px_seg.deploy.extras import check_extra
from px_seg.deploy.run_network import RunNetwork, smallest
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.models import normalisation_in
from px_seg.run.folder import EXPORTED
from px_seg.tasks.base import spread

EXPORT = """Write the network of a finished run as ONNX and for OpenVINO, and evaluate what was written.

    px_seg export runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg export RUN --format onnx,openvino,int8

A pruned network is compacted first. Files go to RUN/export: model.onnx takes `image`, (N, 3, H, W) float32, normalised,
of any number and size, and gives `logits`; model.xml and model.bin are the same for OpenVINO, and model.int8.xml and
model.int8.bin are quantised with images of the run's training set. Classes, colours, normalisation and masks are in
each file. What is written is held to torch's logits, and evaluated on the run's validation images."""

PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "int8": ("openvino", "nncf"),
}
"""What each format needs, ONNX's beside, through which the others come."""


class Written(NamedTuple):
    """One exported file."""

    file: Path
    difference: float | None
    """Of its logits from torch's, as a share of the largest; None for INT8, which is judged by its scores."""

    @property
    def bytes(self) -> int:
        """With its weights beside it."""
        return sum(file.stat().st_size for file in files_of(self.file))


def export(argv: Sequence[str]) -> None:
    """Write the files that the words ask for, evaluate them, and print a table.

    Raises InputError for what is no finished run, for flags that make no export, where a package is missing, where the
    run's images are not there, and for a network that cannot be exported; nothing is written then.
    """
    asked = _read(argv)
    set_threads(asked)
    run = user_path(asked.run, "the run")
    card = read_card(run)
    folder = ExportFolder(run / EXPORTED if asked.out is None else user_path(asked.out, "--out"))
    for name in dict.fromkeys(name for kind in ("onnx", *asked.format) for name in PACKAGES[kind]):
        check_extra(name, "export")
    needed = not asked.no_evaluation or "int8" in asked.format
    images = images_of(run, getattr(asked, "data.root")) if needed else None
    network = smallest(run, card)
    for line in network.said:
        print(line)
    card = _card_of(network, card, run)
    before = folder.held(card)
    with folder.fresh() as place:
        try:
            written = _write(network, card, images, asked.format, asked.calibration, place)
        except OSError as error:
            raise folder.unwritable(error) from None
        rows = {} if asked.no_evaluation or images is None else _evaluated(network, images, written)
        files = {kind: _described(one, rows.get(kind)) for kind, one in written.items()}
        torch_row = {"torch": dict(rows["torch"].scores)} if rows else {}
        summary = {"card": json.loads(card.as_text()), **torch_row, "files": {**before, **files}}
        folder.take({kind: one.file for kind, one in written.items()}, summary)
    if images is not None and rows:
        print(table(images, rows))
    print(f"written to {folder.path}: {', '.join(one.file.name for one in written.values())}")


def _card_of(network: RunNetwork, card: Card, run: Path) -> Card:
    """What travels in the files. InputError for a network that would not take the run's own images then."""
    multiple = multiple_of(network.model)
    if card.size % multiple:
        raise InputError(
            f"the network in {run} pads by the size of its images: exported, it takes sides that {multiple} divides "
            f"alone, and the run's have {card.size} pixels"
        )
    return replace(card, normalisation=normalisation_in(network.model), multiple=multiple)


def _write(
    network: RunNetwork, card: Card, images: Images | None, formats: Sequence[str], count: int, place: Path
) -> dict[str, Written]:
    """The files in `place`, by format, as they were asked for. What they come through is there as well."""
    notes = notes_of(card, network.masks)
    onnx, openvino, int8 = (place / name for name in FILES.values())
    written = {"onnx": Written(onnx, write_onnx(network.model, onnx, notes, card.size))}
    if {"openvino", "int8"} & set(formats):
        write_openvino(onnx, openvino, notes)
        written["openvino"] = Written(openvino, difference_of(network.model, open_openvino(openvino), card.size))
    if "int8" in formats:
        assert images is not None
        quantise(openvino, int8, notes, _calibration(images, count))
        written["int8"] = Written(int8, None)
    return {kind: one for kind, one in written.items() if kind in formats}


def _calibration(images: Images, count: int) -> list[Any]:
    """Training images as the network is evaluated on them, evenly spread over all: (1, 3, H, W) arrays."""
    data = images.task.train.data
    seen = images.task.val.transform
    if count > len(data):
        print(f"calibrated on all {len(data)} training images, for there are no {count}")
    return [seen(data[index], 0)[0][None].numpy() for index in spread(len(data), min(count, len(data)))]


def _evaluated(network: RunNetwork, images: Images, written: Mapping[str, Written]) -> dict[str, Row]:
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.model.state_dict().values())
    rows = {"torch": Row(evaluate(images, network.model, "cpu", "torch"), weights)}
    for kind, one in written.items():
        rows[kind] = Row(evaluate(images, open_exported(one.file), "cpu", kind), one.bytes, one.difference)
    return rows


def _described(one: Written, row: Row | None) -> dict[str, Any]:
    scores = None if row is None else dict(row.scores)
    return {"file": one.file.name, "bytes": one.bytes, "difference": one.difference, "scores": scores}


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg export", EXPORT)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--format", type=_formats, default=("onnx",), help=f"one or more of {', '.join(FILES)}, commas between (onnx)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the files (RUN/export)")
    parser.add_argument("--calibration", type=from_one_on, default=300, help="training images that INT8 sees (300)")
    parser.add_argument("--no_evaluation", action="store_true", help="leave the table out")
    parser.add_argument("--data.root", metavar="DIR", help="where the run's images are now (where they were)")
    add_threads(parser)
    return parser.parse_args(argv)


def _formats(text: str) -> tuple[str, ...]:
    asked = tuple(text.split(","))
    if unknown := [one for one in asked if one not in FILES]:
        raise argparse.ArgumentTypeError(f"there is no format {unknown[0]!r}: choose of {', '.join(FILES)}")
    return tuple(kind for kind in FILES if kind in asked)
