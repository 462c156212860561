"""The page on which networks are seen side by side."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from px_seg.data.images import upright
from px_seg.deploy.demo.side_by_side import Contender, Seen, compare, fitted
from px_seg.deploy.overlays import overlay
from px_seg.errors import InputError
from px_seg.extras import extra, variable

_STYLE = """
.gradio-container {max-width: 1280px !important}
.numbers {overflow-x: auto}
.numbers table {font-variant-numeric: tabular-nums}
.numbers th, .numbers td {white-space: nowrap; overflow-wrap: normal; padding: 6px 12px !important}
.numbers td:not(:first-child), .numbers th:not(:first-child) {text-align: right !important}
.networks {display: grid !important; grid-template-columns: repeat(auto-fit, minmax(min(220px, 100%), 1fr))}
"""

_SHOWN = 480
"""Pixels that the longer side of a small picture is enlarged to at most, by a whole number."""


def build_page(
    title: str, networks: Mapping[str, Contender], classes: Sequence[str], side: int, repeats: int, pictures: Path
) -> Any:
    """A gradio page: drop a picture, see what each network makes of it, and in how many milliseconds.

    Pictures are read from the folder `pictures` alone, where `pictures_kept` has gradio put them. Those with a longer
    side of more than `side` pixels are made smaller first. Nothing on the page comes from another machine than the one
    that serves it, and nobody is told of its use. Raises InputError where gradio is not installed.
    """
    gradio = extra("gradio", "demo")
    with gradio.Blocks(analytics_enabled=False, title=title) as page:
        gradio.Markdown(f"# {title}\n{_explained(networks, side, repeats)}")
        with gradio.Row():
            with gradio.Column(min_width=360):
                picture = gradio.Image(label="Picture", sources=["upload", "clipboard"], height=320)
            with gradio.Column(min_width=360):
                numbers = gradio.Markdown(_table({}, networks), elem_classes="numbers")
        heads, frames = [], []
        with gradio.Row(elem_classes="networks"):
            for name in networks:
                with gradio.Column(min_width=0):
                    heads.append(gradio.Markdown(f"#### {name}"))
                    buttons = ["download", "fullscreen"]
                    frames.append(
                        gradio.Image(label=name, show_label=False, format="png", interactive=False, buttons=buttons)
                    )

        def look(given: Mapping[str, Any] | None) -> list[Any]:
            if given is None:
                return [_table({}, networks), *(f"#### {name}" for name in networks), *(None for _ in networks)]
            try:
                file = Path(given["path"]).resolve()
            except (KeyError, TypeError, ValueError):
                raise gradio.Error("this is no picture", print_exception=False) from None
            try:
                if not file.is_relative_to(pictures.resolve()):
                    raise InputError(f"{file} is not a picture that was dropped here")
                image = fitted(upright(file).pixels, side)
                seen = compare(networks, image, repeats)
            except InputError as error:
                # Without the folder that the page keeps its files in.
                message = str(error).replace(f"{file.parent}/", "")
                raise gradio.Error(message, duration=None, print_exception=False) from None
            found = [f"#### {name}\n{one.milliseconds:.3g} ms" for name, one in seen.items()]
            return [_table(seen, networks), *found, *(_picture(image, one.labels, classes) for one in seen.values())]

        shown = [numbers, *heads, *frames]
        # Of what it cannot read, gradio's own way prints tracebacks.
        picture.change(look, picture, shown, preprocess=False, api_visibility="private", show_progress_on=frames)
    return page


def serve_page(page: Any, host: str, port: int | None) -> str:
    """Serve a page until it is closed, and return its address. The rest goes on meanwhile.

    Raises InputError where the address is taken, or is not one of this machine.
    """
    gradio = extra("gradio", "demo")
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            show_error=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size="100mb",
            theme=gradio.themes.Default(**fonts),
            css=_STYLE,
        )
    except OSError as error:
        raise InputError(f"no page can be served at {host}:{port or ''}: {error}") from None
    return address


@contextmanager
def pictures_kept() -> Iterator[Path]:
    """A folder in which gradio keeps the pictures of a page, gone at the end.

    Its usual one is the same for all users of a machine, stays, and is closed to all but the first of them.
    """
    with TemporaryDirectory(prefix="px_seg-") as place, variable("GRADIO_TEMP_DIR", place):
        yield Path(place)


def _explained(networks: Mapping[str, Contender], side: int, repeats: int) -> str:
    threads = torch.get_num_threads()
    devices = {str(one.segmenter.device) for one in networks.values()}
    where = " and ".join(sorted(devices)).replace("cpu", f"the CPU, {threads} thread{'s' if threads > 1 else ''}")
    return (
        f"Drop a picture. It is made smaller where a side is longer than {side} pixels, and labelled by each network; "
        f"milliseconds are from pixels to labels, the median of {repeats}, in turns, on {where}. "
        f"Same labels: the share of the pixels that have the label of {next(iter(networks))}."
    )


def _picture(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    times = max(1, _SHOWN // max(labels.shape))
    large, over = (pixels.repeat(times, 0).repeat(times, 1) for pixels in (image, labels))
    return overlay(large, over, classes)


def _table(seen: Mapping[str, Seen], networks: Mapping[str, Contender]) -> str:
    """In Markdown: what each network costs, and on how much of the picture it agrees with the first."""
    first = next(iter(networks))
    lines = [f"| network | MB | ms | of {first} | same labels |", "|:--|--:|--:|--:|--:|"]
    for name, one in networks.items():
        size, found = f"{one.bytes / 1e6:.2f}", seen.get(name)
        if found is None:
            lines.append(f"| {name} | {size} | | | |")
            continue
        ratio = found.milliseconds / seen[first].milliseconds
        lines.append(f"| {name} | {size} | {found.milliseconds:.1f} | {ratio:.2f} | {found.agreement:.2%} |")
    return "\n".join(lines)
