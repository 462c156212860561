"""The network of a finished run in files that other runtimes read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from px_seg.analysis.sparse_units import of_sparse_units, sparse_layers
from px_seg.deploy.card import Card, read_card, read_results, run_of
from px_seg.deploy.evaluating import Images, Row, data_root, evaluate, images_of, table, validation_of
from px_seg.deploy.exported import files_of, open_exported, quantise, write_onnx, write_openvino
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.exported.network import FILES, notes_of
from px_seg.deploy.exported.onnx_file import difference_of, multiple_of
from px_seg.deploy.exported.openvino_file import open_openvino
from px_seg.deploy.run_network import RunNetwork, as_saved, smallest
from px_seg.deploy.tensorrt import sparse_command
from px_seg.errors import InputError
from px_seg.extras import check_extra
from px_seg.models import COARSEST, channels_of, normalisation_in
from px_seg.run.folder import EXPORTED
from px_seg.run.results import sparse_layers_of
from px_seg.tasks.base import spread

PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "int8": ("openvino", "nncf"),
}
"""What each format needs, ONNX's beside, through which the others come."""


@dataclass(frozen=True)
class Export:
    """What is to be written of a run."""

    formats: Sequence[str] = ("onnx",)
    calibration: int = 300
    """Training images that INT8 sees."""
    weight_range: str = "half"
    """Of INT8, what its weights use: half or whole."""
    evaluated: bool = True
    """Whether torch's network and the files are evaluated on the run's validation images."""
    compacted: bool = True
    """Whether a network with zeros is made smaller first."""
    root: str | None = None
    """Where the run's images are now; where they were if None."""


class Written(NamedTuple):
    """One exported file."""

    file: Path
    difference: float | None
    """Of its logits from torch's, as a share of the largest; None for INT8, which is judged by its scores."""
    quantised: Mapping[str, Any] | None = None
    """How INT8 came about: the number of images that it saw as `calibration`, and its `weight_range`."""

    @property
    def bytes(self) -> int:
        """With its weights beside it."""
        return sum(file.stat().st_size for file in files_of(self.file))


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError for a format that there is not, and where a package that one needs is not installed."""
    for kind in formats:
        if kind not in FILES:
            raise InputError(f"there is no format {kind!r}: choose of {', '.join(FILES)}")
    for name in dict.fromkeys(name for kind in ("onnx", *formats) for name in PACKAGES[kind]):
        check_extra(name, "export")


def export_run(run: Path, folder: ExportFolder, asked: Export, say: Callable[[str], Any] = print) -> None:
    """Write the network of a finished run to a folder, hold it to torch's, and evaluate what was written.

    Raises InputError for what is no finished run, where a package is missing, where the run's images are not there, and
    for a network that cannot be exported; nothing is written then.
    """
    card = read_card(run)
    check_formats(asked.formats)
    reads = images_of if "int8" in asked.formats else validation_of
    images = reads(run, data_root(asked.root)) if asked.evaluated or "int8" in asked.formats else None
    network = smallest(run, card) if asked.compacted else as_saved(run, card)
    if not asked.compacted and network.kind == "compacted":
        raise InputError(f"{run} was compacted before it trained, and has no other network: leave --no_compact out")
    for line in network.said:
        say(line)
    card = _card_of(network, card, run)
    before = folder.held(card)
    with folder.fresh() as place:
        try:
            written = _write(network, card, images, asked, place)
        except OSError as error:
            raise folder.unwritable(error) from None
        rows = _evaluated(network, images, written) if asked.evaluated and images is not None else {}
        files = {kind: _described(one, rows.get(kind), network.kind) for kind, one in written.items()}
        torch_row = {"torch": dict(rows["torch"].scores)} if rows else {}
        summary = {"card": json.loads(card.as_text()), **torch_row, "files": {**before, **files}}
        folder.take({kind: one.file for kind, one in written.items()}, summary)
    if images is not None and rows:
        say(table(images, rows))
    say(f"written to {folder.path}: {', '.join(one.file.name for one in written.values())}")
    if "onnx" in asked.formats:
        for line in _of_sparse_units(run, network.model, folder.path / FILES["onnx"], card.size):
            say(line)


def export_missing(runs: Sequence[Path], formats: Sequence[str], say: Callable[[str], Any] = print) -> None:
    """Export and evaluate the runs of which not all formats were yet.

    Raises InputError for those that cannot be exported, once the others are.
    """
    failed: list[InputError] = []
    left = {run: missing for run in runs if (missing := [kind for kind in formats if kind not in exported_scores(run)])}
    for number, (run, missing) in enumerate(left.items(), 1):
        try:
            say(f"exporting {number} of {len(left)}: {run}")
            export_run(run, ExportFolder(run / EXPORTED), Export(missing), say)
        except InputError as error:
            failed.append(error)
    if failed:
        raise InputError(f"{len(failed)} of {len(left)} runs were not exported; the first: {failed[0]}")


def exported_scores(run: Path) -> Mapping[str, Mapping[str, Any]]:
    """What was found when files of a run were evaluated, by format, as results.json has it.

    INT8's has the number of `calibration` images and the `weight_range` beside it; one of an earlier version, which did
    not write that number down and used the whole range, is as if it had not been evaluated. Raises InputError for an
    export.json that is damaged.
    """
    described = {kind: about for kind, about in ExportFolder(run / EXPORTED).described().items() if about["scores"]}
    found = {kind: about["scores"] for kind, about in described.items() if kind != "int8"}
    if "calibration" in described.get("int8", {}):
        about = {"weight_range": "half", **described["int8"]}
        found["int8"] = {**about["scores"], **{key: about[key] for key in ("calibration", "weight_range")}}
    return found


def _of_sparse_units(run: Path, model: nn.Module, file: Path, size: int) -> list[str]:
    """What sparse matrix units can take of an exported network, in lines; none where the run has nothing for them."""
    before = sparse_layers_of(read_results(run_of(run)))
    side = -(-size // COARSEST) * COARSEST
    found = sparse_layers(model, model.state_dict(), (channels_of(model), side, side))
    lines = [of_sparse_units(found), f"try them with {sparse_command(file, size)}"] if found else []
    # A layer of which compaction took channels may be within another.
    left = before.keys() & {name.removesuffix(".layer") for name in found}
    if len(left) < len(before):
        lines.append(f"compaction left the pattern 2:4 to {len(left)} of {len(before)} layers: --no_compact keeps it")
    return lines


def _card_of(network: RunNetwork, card: Card, run: Path) -> Card:
    """What travels in the files. InputError for a network that would not take the run's own images then."""
    multiple = multiple_of(network.model)
    if card.size % multiple:
        raise InputError(
            f"the network in {run} pads by the size of its images: exported, it takes sides that {multiple} divides "
            f"alone, and the run's have {card.size} pixels"
        )
    return replace(card, normalisation=normalisation_in(network.model), multiple=multiple)


def _write(network: RunNetwork, card: Card, images: Images | None, asked: Export, place: Path) -> dict[str, Written]:
    """The files in `place`, by format, as they were asked for. What they come through is there as well."""
    notes = notes_of(card, network.masks)
    onnx, openvino, int8 = (place / name for name in FILES.values())
    written = {"onnx": Written(onnx, write_onnx(network.model, onnx, notes, card.size))}
    if {"openvino", "int8"} & set(asked.formats):
        write_openvino(onnx, openvino, notes)
        written["openvino"] = Written(openvino, difference_of(network.model, open_openvino(openvino), card.size))
    if "int8" in asked.formats:
        assert images is not None
        seen = _calibration(images, asked.calibration)
        quantise(openvino, int8, notes, seen, asked.weight_range)
        written["int8"] = Written(int8, None, {"calibration": len(seen), "weight_range": asked.weight_range})
    return {kind: one for kind, one in written.items() if kind in asked.formats}


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


def _described(one: Written, row: Row | None, kind: str) -> dict[str, Any]:
    scores = None if row is None else dict(row.scores)
    known = {"file": one.file.name, "network": kind, "bytes": one.bytes, "difference": one.difference}
    return {**known, "scores": scores, **(one.quantised or {})}
