"""The command `demo`: a local page that shows what finished runs' networks make of a picture."""

import argparse
import signal
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from px_seg.deploy.arguments import Parser, add_device, device_asked_for, from_one_on
from px_seg.deploy.card import Card, read_card
from px_seg.deploy.demo.page import build_page, pictures_kept, serve_page
from px_seg.deploy.demo.side_by_side import Contender, contenders
from px_seg.errors import InputError
from px_seg.extras import check_extra
from px_seg.files import user_path

DEMO = """Show on a local page what finished runs' networks make of pictures that you drop there, and in how long.

    px_seg demo runs/seg/voc2012/resnet50-imagenet/px/0.8/seed0
    px_seg demo RUN DENSE_RUN --port 8000

Side by side: the network as it was trained, compacted, and what px_seg export wrote to the run's folder, such as INT8.
The page is for this machine alone, unless --host says otherwise. Ctrl-C closes it."""


def show(argv: Sequence[str]) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises InputError for what is no finished run of segmentation, for runs with different classes, where gradio is not
    installed, and for an address that cannot be served.
    """
    asked = _read(argv)
    check_extra("gradio", "demo")
    device = device_asked_for(asked)
    _check_address(asked.host, asked.port)
    folders = {text: user_path(text, "the run") for text in asked.runs}
    cards = {text: read_card(folder) for text, folder in folders.items()}
    _check_cards(cards)
    labels = _labels(cards)
    networks: dict[str, Contender] = {}
    for text, card in cards.items():
        found, said = contenders(folders[text], card, device)
        for line in said:
            print(f"{text}: {line}")
        networks |= found if len(cards) == 1 else {f"{labels[text]}: {name}": one for name, one in found.items()}
    title = " and ".join(dict.fromkeys(card.encoder for card in cards.values()))
    title += f": {', '.join(dict.fromkeys(_network(card) for card in cards.values()))}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pictures_kept() as pictures:
        classes = next(iter(cards.values())).classes
        page = build_page(title, networks, classes, asked.side, asked.repeats, pictures)
        try:
            address = serve_page(page, asked.host, asked.port)
            print(f"open {address} in a browser; Ctrl-C closes the page", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("closed")
        finally:
            page.close(verbose=False)


def _check_cards(cards: Mapping[str, Card]) -> None:
    """Raise InputError for runs that cannot be on one page."""
    first = next(iter(cards))
    for text, card in cards.items():
        if card.task != "seg":
            raise InputError(f"{text} is of a classifier: the page labels pixels, so give a run of px_seg seg")
        if card.channels != 3:
            raise InputError(f"{text} has images of {card.channels} channels: the page takes pictures of 3")
        if card.classes != cards[first].classes:
            raise InputError(f"{text} and {first} tell different classes apart: give runs of one dataset")


def _labels(cards: Mapping[str, Card]) -> dict[str, str]:
    """What the networks of each of several runs are called by, with its folder where two would have the same name."""
    names = {text: _network(card) for text, card in cards.items()}
    several = Counter(names.values())
    return {text: name if several[name] == 1 else f"{name}, {text}" for text, name in names.items()}


def _network(card: Card) -> str:
    return f"{card.method} at {100 * card.sparsity:.4g}%" if card.sparsity else "dense"


def _check_address(host: str, port: int | None) -> None:
    """Raise InputError where nothing can be served there, which gradio would take for a port in use."""
    try:
        with socket.create_server((host, port or 0)):
            pass
    except (OSError, OverflowError) as error:
        where = f"--host {host}" if port is None else f"--host {host} --port {port}"
        raise InputError(f"{where} cannot be served: {getattr(error, 'strerror', None) or error}") from None


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("px_seg demo", DEMO)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run of segmentation")
    parser.add_argument("--side", type=from_one_on, default=640, help="pixels to which longer sides are cut down (640)")
    parser.add_argument("--repeats", type=from_one_on, default=3, help="times that each network is measured (3)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; 0.0.0.0 is for everyone (127.0.0.1)")
    parser.add_argument("--port", type=from_one_on, help="port to serve (the first that is free from 7860 on)")
    add_device(parser)
    return parser.parse_args(argv)
