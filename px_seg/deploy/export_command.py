"""The command `export`: the network of a finished run in files that other runtimes read."""

import argparse
from collections.abc import Sequence

from px_seg.deploy.arguments import Parser, add_threads, from_one_on, set_threads
from px_seg.deploy.card import export_folder
from px_seg.deploy.exported.folder import ExportFolder
from px_seg.deploy.exported.network import FILES
from px_seg.deploy.exporting import Export, export_run
from px_seg.files import user_path
from px_seg.flags import list_of

EXPORT = """Write the network of a finished run as ONNX and for OpenVINO, and evaluate what was written.

    px_seg export runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg export RUN --format onnx,openvino,int8

A pruned network is compacted first; with --no_compact it is not, and its files go to RUN/export.whole, which reports
and px_seg latency leave alone. Other files go to RUN/export: model.onnx takes `image`, (N, 3, H, W) float32,
normalised, of any number and size, and gives `logits`; model.xml and model.bin are the same for OpenVINO, and
model.int8.xml and model.int8.bin are quantised with images of the run's training set. Classes, colours, normalisation
and masks are in each file. What is written is held to torch's logits, and evaluated on the run's validation images."""


def export(argv: Sequence[str]) -> None:
    """Write the files that the words ask for, evaluate them, and print a table.

    Raises what `export_run` does, and InputError for flags that make no export.
    """
    asked = _read(argv)
    set_threads(asked)
    run = user_path(asked.run, "the run")
    usual = export_folder(run, compacted=not asked.no_compact)
    folder = ExportFolder(usual if asked.out is None else user_path(asked.out, "--out"))
    export_run(
        run,
        folder,
        Export(
            asked.format,
            asked.calibration,
            asked.int8_range,
            evaluated=not asked.no_evaluation,
            compacted=not asked.no_compact,
            root=getattr(asked, "data.root"),
        ),
    )


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg export", EXPORT)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run, or RUN/best")
    parser.add_argument(
        "--format",
        type=list_of(str),
        default=("onnx",),
        help=f"one or more of {', '.join(FILES)}, commas between (onnx)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the files (RUN/export, or RUN/export.best)")
    parser.add_argument("--calibration", type=from_one_on, default=300, help="training images that INT8 sees (300)")
    parser.add_argument(
        "--int8_range",
        choices=("half", "whole"),
        default="half",
        help="what INT8's weights use of its range: half, or whole for processors with VNNI alone (half)",
    )
    parser.add_argument("--no_compact", action="store_true", help="keep all channels, and zeros for pruned weights")
    parser.add_argument("--no_evaluation", action="store_true", help="leave the table out")
    parser.add_argument("--data.root", metavar="DIR", help="where the run's images are now (where they were)")
    add_threads(parser)
    return parser.parse_args(argv)
