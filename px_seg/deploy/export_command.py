"""The command `export`: the network of a finished run in files that other runtimes read."""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.deploy.arguments import Parser, add_threads, from_one_on, set_threads
from px_seg.deploy.card import Card, check_classes, read_card
from px_seg.deploy.evaluating import Images, Row, evaluate, images_of, table
from px_seg.deploy.exported import files_of, open_exported, quantise, write_onnx, write_openvino
from px_seg.deploy.exported.network import FILES, notes_of
from px_seg.deploy.exported.onnx_file import difference_of, multiple_of
from px_seg.deploy.exported.openvino_file import open_openvino
from px_seg.deploy.extras import extra
from px_seg.deploy.run_network import Smallest, smallest
from px_seg.errors import InputError
from px_seg.files import user_path, write_text
from px_seg.models import weights_in
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

SUMMARY = "export.json"


class Written(NamedTuple):
    """One exported file."""

    file: Path
    bytes: int
    """With its weights beside it."""
    difference: float | None
    """Of its logits from torch's, as a share of the largest; None for INT8, which is judged by its scores."""


def export(argv: Sequence[str]) -> None:
    """Write the files that the words ask for, evaluate them, and print a table.

    Raises InputError for what is no finished run, for flags that make no export, where a package is missing, where the
    run's images are not there, and for a network that cannot be exported; nothing is written then.
    """
    asked = _read(argv)
    set_threads(asked)
    folder = user_path(asked.run, "the run")
    card = read_card(folder)
    out = folder / EXPORTED if asked.out is None else user_path(asked.out, "--out")
    for name in dict.fromkeys(name for kind in ("onnx", *asked.format) for name in PACKAGES[kind]):
        extra(name, "export")
    needed = not asked.no_evaluation or "int8" in asked.format
    images = images_of(folder, getattr(asked, "data.root")) if needed else None
    network = smallest(folder, card)
    for line in network.said:
        print(line)
    check_classes(list(network.model.parameters())[-1].shape[0], card, folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as place:
            written = _write(network, card, images, asked.format, asked.calibration, Path(place))
            rows = {} if asked.no_evaluation or images is None else _evaluated(folder, network, images, written)
            _move(written, out)
        held = {"card": json.loads(_card_of(network, card).as_text()), "files": _described(written, rows)}
        write_text(out / SUMMARY, json.dumps(held, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{out} cannot be written to ({error.strerror or error}): make room, or give --out") from None
    if images is not None and rows:
        print(table(images, rows))
    print(f"written to {out}: {', '.join(one.file.name for one in written.values())}")


def _write(
    network: Smallest, card: Card, images: Images | None, formats: Sequence[str], count: int, place: Path
) -> dict[str, Written]:
    """The files in `place`, by format, as they were asked for. What they come through is there as well."""
    notes = notes_of(_card_of(network, card), network.masks)
    onnx, openvino, int8 = (place / name for name in FILES.values())
    written = {"onnx": Written(onnx, 0, write_onnx(network.model, onnx, notes, card.size))}
    if {"openvino", "int8"} & set(formats):
        write_openvino(onnx, openvino, notes)
        written["openvino"] = Written(openvino, 0, difference_of(network.model, open_openvino(openvino), card.size))
    if "int8" in formats:
        assert images is not None
        quantise(openvino, int8, notes, _calibration(images, count))
        written["int8"] = Written(int8, 0, None)
    sizes = {kind: sum(file.stat().st_size for file in files_of(one.file)) for kind, one in written.items()}
    return {kind: one._replace(bytes=sizes[kind]) for kind, one in written.items() if kind in formats}


def _card_of(network: Smallest, card: Card) -> Card:
    return Card(**{**vars(card), "multiple": multiple_of(network.model)})


def _calibration(images: Images, count: int) -> list[Any]:
    """Training images as the network is evaluated on them, evenly spread over all: (1, 3, H, W) arrays."""
    data = images.task.train.data
    seen = images.task.val.transform
    if count > len(data):
        print(f"calibrated on all {len(data)} training images, for there are no {count}")
    return [seen(data[index], 0)[0][None].numpy() for index in spread(len(data), min(count, len(data)))]


def _evaluated(folder: Path, network: Smallest, images: Images, written: Mapping[str, Written]) -> dict[str, Row]:
    saved = weights_in(folder / "model").stat().st_size
    rows = {"torch": Row(evaluate(images, network.model, "cpu", "torch"), saved)}
    for kind, one in written.items():
        found = evaluate(images, open_exported(one.file), "cpu", kind)
        rows[kind] = Row(found, one.bytes, one.difference)
    return rows


def _described(written: Mapping[str, Written], rows: Mapping[str, Row]) -> dict[str, Any]:
    return {
        kind: {
            "file": one.file.name,
            "bytes": one.bytes,
            "difference": one.difference,
            "scores": dict(rows[kind].scores) if kind in rows else None,
        }
        for kind, one in written.items()
    }


def _move(written: Mapping[str, Written], out: Path) -> None:
    for one in written.values():
        # The network last: without weights beside it, it would be damaged.
        for file in reversed(files_of(one.file)):
            file.replace(out / file.name)


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
