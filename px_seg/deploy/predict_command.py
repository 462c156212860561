"""The command `predict`: images labelled by the network of a finished run."""

import argparse
import sys
from collections.abc import Sequence

from px_seg.deploy.arguments import Parser, add_device, device_asked_for, from_one_on
from px_seg.deploy.card import read_card
from px_seg.deploy.exported import open_exported
from px_seg.deploy.labelling import SUMMARY, label_all, read_summary
from px_seg.deploy.predicting import Segmenter, Views
from px_seg.deploy.run_network import saved_network
from px_seg.deploy.wanted import Wanted, check_results, find
from px_seg.errors import InputError
from px_seg.files import make_folder, user_path
from px_seg.progress import bar

PREDICT = """Label images of any size, folders of them, and videos, with the network of a finished run.

    px_seg predict runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0 photo.jpg --out labels
    px_seg predict RUN/export/model.int8.xml photo.jpg --out labels
    px_seg predict RUN FOLDER FILE ... --out DIR --flip --scales 0.75,1,1.25

Of every image it writes DIR/NAME.png, the labels in VOC's colours, and DIR/NAME.overlay.jpg, the image with its labels
over it; of a video NAME.overlay.mp4. DIR/predictions.json has the share of every class. A file that cannot be read is
named and left out, and the exit status is then 1."""


def label(argv: Sequence[str]) -> bool:
    """Label the files that the words name, and say what became of them; whether all of them were labelled.

    Raises InputError for what is no finished run of segmentation, for flags and files that cannot be used, and for
    results that are there already.
    """
    asked = _read(argv)
    views = Views(asked.flip, asked.scales, asked.window)
    device = device_asked_for(asked)
    source, out = user_path(asked.run, "the run"), user_path(asked.out, "--out")
    exported = open_exported(source, asked.device or "cpu") if source.is_file() else None
    card = read_card(source) if exported is None else exported.card
    if card.task != "seg":
        raise InputError(f"{source} is of a classifier: predict labels pixels, so give a run of px_seg seg")
    if len(card.classes) > 256:
        raise InputError(f"{source} tells {len(card.classes)} classes apart, which do not fit into a byte a pixel")
    wanted = find([user_path(text, "the image") for text in asked.images], out)
    if asked.resume:
        wanted = [one for one in wanted if not all(file.is_file() for file in one.results(out))]
    check_results(wanted, out, asked.overwrite or asked.resume)
    read_summary(out, card.classes)
    segmenter = Segmenter.of(saved_network(source, card).to(device) if exported is None else exported)
    make_folder(out, "--out")
    with bar(total=len(wanted), desc="labelling", unit="file", show=len(wanted) > 1) as progress:

        def done(one: Wanted, problem: str | None) -> None:
            if problem is not None:
                progress.write(f"left out: {problem}", file=sys.stderr)
            progress.update()

        outcome = label_all(segmenter, card.classes, wanted, out, views, asked.batch_size, done)
    left_out = f", {len(outcome.skipped)} left out" if outcome.skipped else ""
    print(f"{len(outcome.labelled)} of {len(wanted)} files labelled{left_out}: {out / SUMMARY}")
    return not outcome.skipped


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg predict", PREDICT)
    parser.add_argument(
        "run", metavar="RUN", help="folder of a finished run of segmentation, or a file that px_seg export wrote"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, video, or folder of them")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--overwrite", action="store_true", help="write over results that are there")
    parser.add_argument("--resume", action="store_true", help="leave out what has results there")
    parser.add_argument("--batch_size", type=from_one_on, default=1, help="images of one size seen at once (1)")
    parser.add_argument("--flip", action="store_true", help="average over the image and its mirror image")
    parser.add_argument("--scales", type=_factors, default=(1.0,), help="average over sizes, such as 0.75,1,1.25 (1)")
    parser.add_argument(
        "--window", type=from_one_on, default=2048, help="side of the squares in which larger images are seen (2048)"
    )
    add_device(parser)
    return parser.parse_args(argv)


def _factors(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes factors with commas between them, got {text!r}") from None
