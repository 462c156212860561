"""The command `evaluate`: a finished run's network, or files that were exported, on the run's images."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from px_seg.deploy.arguments import (
    Parser,
    add_device,
    device_asked_for,
    from_one_on,
    output_file,
    write_output,
)
from px_seg.deploy.card import read_card
from px_seg.deploy.evaluating import Images, Row, check_same, evaluate, table, validation_of
from px_seg.deploy.exported import files_of, open_exported
from px_seg.deploy.run_network import saved_network
from px_seg.files import user_path
from px_seg.flags import run_flags
from px_seg.models import model_folder, weights_in

EVALUATE = """Evaluate the network of a finished run, or exported files of it, on the run's validation images.

    px_seg evaluate runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg evaluate RUN --model RUN/export/model.onnx RUN/export/model.int8.xml
    px_seg evaluate RUN --data.root other/voc --data.val_split test
    px_seg evaluate RUN --evaluation.flip --evaluation.scales '[0.75,1,1.25]'

Scores are read off the same confusion matrix as at the end of the run. The flags --data.KEY and --evaluation.KEY of a
run say on which images, and how they are looked at; all else is as in the run."""


def score(argv: Sequence[str]) -> None:
    """Evaluate what the words name and print a table.

    Raises InputError for what is no finished run, for files of other networks, and where the run's images are not
    there.
    """
    words, flags = run_flags(argv, ("data", "evaluation"))
    asked = _read(words)
    device = device_asked_for(asked)
    folder = user_path(asked.run, "the run")
    card = read_card(folder)
    networks: dict[str, tuple[nn.Module, int]] = {}
    for text in asked.model or ():
        file = user_path(text, "--model")
        exported = open_exported(file, asked.device or "cpu")
        check_same(card, exported.card, file, folder)
        networks[text] = exported, sum(one.stat().st_size for one in files_of(file))
    output = output_file(asked)
    images = _with_batches(validation_of(folder, flags), asked.batch_size)
    if not networks:
        networks["torch"] = saved_network(folder, card).to(device), weights_in(model_folder(folder)).stat().st_size
    where = (asked.device or "cpu") if asked.model else device
    rows = {
        name: Row(evaluate(images, network, where, Path(name).name), size) for name, (network, size) in networks.items()
    }
    print(table(images, rows))
    if output is not None:
        held = {name: {"bytes": row.bytes, **row.scores} for name, row in rows.items()}
        write_output(output, held)


def _with_batches(images: Images, batch_size: int | None) -> Images:
    return images if batch_size is None else images._replace(config=replace(images.config, batch_size=batch_size))


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg evaluate", EVALUATE)
    parser.add_argument(
        "run", metavar="RUN", help="folder of a finished run, or RUN/best, the network of its best epoch"
    )
    parser.add_argument("--model", nargs="+", metavar="FILE", help="exported files in place of the run's network")
    parser.add_argument("--batch_size", type=from_one_on, help="images in a batch (the run's)")
    parser.add_argument("--output", metavar="FILE", help="write the scores to this JSON file")
    add_device(parser)
    return parser.parse_args(argv)
