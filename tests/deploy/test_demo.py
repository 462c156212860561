"""The page on which a run's networks are seen side by side: what it shows, in a browser, and to whom."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio
import numpy as np
import pytest
import torch
from helpers.runs import classify, go
from helpers.watched import WATCHED
from PIL import Image
from playwright.sync_api import Page, Request, sync_playwright

import px_seg
from px_seg.commands import main
from px_seg.data.palette import voc_colours
from px_seg.deploy.card import read_card
from px_seg.deploy.demo.page import build_page
from px_seg.deploy.demo.side_by_side import compare, contenders, fitted
from px_seg.deploy.demo_command import _labels

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def picture(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3): bands in the colours that the run of `finished` was trained on."""
    rows = np.arange(size[0])[:, None] // 20 % 4
    return voc_colours()[rows + np.zeros(size[1], int)] // 4 * 3


@pytest.fixture
def served(finished: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The page of a finished run in a process of its own, and its address."""
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", WATCHED, "demo", str(finished), "--threads", "1", "--repeats", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    # With it, libraries would report nothing of themselves.
    environment.pop("CI", None)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process, _address(process, finished)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen, run: Path) -> str:
    """Where the page is, once it is served."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.match(r"open (\S+) in a browser; Ctrl-C closes the page$", line):
            break
    else:
        raise AssertionError("".join(said))
    assert len(said) == 2
    assert said[0].startswith(f"{run}: compacted from ")
    return found[1]


@pytest.fixture
def window() -> Iterator[Page]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox is not for root, whom many containers run as.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def drop(window: Page, file: Path) -> None:
    window.set_input_files("input[type=file]", file)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt install chromium")
def test_a_picture_is_labelled_by_all_networks_of_a_run(
    finished: Path, served: tuple[subprocess.Popen, str], window: Page, tmp_path: Path
) -> None:
    process, address = served
    asked: list[Request] = []
    window.on("request", lambda request: asked.append(request))
    window.goto(address)
    image = picture((90, 60))
    # On its side, as phones store pictures.
    turned = Image.fromarray(np.rot90(image).copy())
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "photo.png", exif=exif)
    drop(window, tmp_path / "photo.png")
    heads = window.locator("h4")
    window.get_by_text(" ms").nth(5).wait_for()
    names = ["masked", "compacted", "onnx", "openvino", "int8"]
    assert heads.all_inner_texts() == names
    rows = [row.split() for row in window.locator("table tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == names
    assert [row[4] for row in rows[:4]] == ["100.00%"] * 4
    assert all(float(row[2]) > 0 for row in rows)
    window.wait_for_function("document.querySelectorAll('.networks img').length == 5")
    frames = [window.request.get(str(one.get_attribute("src"))).body() for one in window.locator(".networks img").all()]
    shown = [np.array(Image.open(io.BytesIO(one)).convert("RGB")) for one in frames]
    labels = px_seg.predict(px_seg.load_model(finished), image)
    assert len(np.unique(labels)) > 1
    # Five times as large, in a page that is as wide as its legend.
    left = (shown[0].shape[1] - 300) // 2
    found = shown[0][2:450:5, left + 2 : left + 300 : 5]
    expected = np.where(labels[..., None] > 0, (0.45 * image + 0.55 * voc_colours()[labels]).round(), image)
    assert (found == expected.astype(np.uint8)).mean() > 0.99
    assert (shown[0] == shown[1]).all()

    # What is no picture is told, and nothing of the page is from elsewhere.
    (tmp_path / "none.jpg").write_bytes(b"none")
    window.get_by_label("Remove Image").click()
    window.wait_for_function("document.querySelectorAll('.networks img').length == 0")
    drop(window, tmp_path / "none.jpg")
    window.get_by_text("none.jpg is not a readable image").wait_for()
    assert {one.url.split("/")[2] for one in asked if one.url.startswith("http")} == {address.split("/")[2]}
    assert address.startswith("http://127.0.0.1:")

    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.read() == "closed\n"
    assert process.wait() == 0
    assert list((tmp_path / "temporary").glob("px_seg-*")) == []


def test_networks_are_those_of_the_run(finished: Path, small: Path, tmp_path: Path) -> None:
    card = read_card(finished)
    found, said = contenders(finished, card, "cpu")
    assert list(found) == ["masked", "compacted", "onnx", "openvino", "int8"]
    assert found["masked"].bytes > found["compacted"].bytes > found["int8"].bytes
    weights = finished / "export" / "model.int8.bin"
    assert found["int8"].bytes == weights.stat().st_size + weights.with_suffix(".xml").stat().st_size
    assert [line.split(" from ")[0] for line in said] == ["compacted"]
    image = picture((70, 45))
    seen = compare(found, image, 2)
    for name, one in seen.items():
        assert one.labels.shape == (70, 45)
        assert one.milliseconds > 0
        assert one.agreement == (one.labels == seen["masked"].labels).mean(), name
    assert (seen["masked"].labels == px_seg.predict(px_seg.load_model(finished), image)).all()
    assert seen["int8"].agreement > 0.5

    (finished / "export" / "model.int8.xml").unlink()
    (finished / "export" / "model.onnx").write_bytes(b"none")
    found, said = contenders(finished, card, "cpu")
    assert list(found) == ["masked", "compacted", "openvino"]
    assert "model.onnx is not an ONNX file" in said[1]
    assert said[2] == f"px_seg export {finished} --format int8 puts a quantised network beside these"


def test_a_dense_and_a_compacted_run_have_one_network(tiny: Path, tmp_path: Path) -> None:
    for name, flags in (
        ("dense", ("--method", "dense", "--sparsity", 0)),
        ("compacted", ("--method", "magnitude", "--granularity", "filter", "--compact", "true")),
    ):
        go("--config", tiny, *flags, "--epochs", 1, "--output_dir", tmp_path / name)
        assert list(contenders(tmp_path / name, read_card(tmp_path / name), "cpu")[0]) == [name]


def test_networks_of_several_runs_are_called_by_their_runs(finished: Path) -> None:
    card = read_card(finished)
    dense, other = replace(card, method="dense", sparsity=0.0), replace(card, sparsity=0.8)
    assert _labels({"a": dense, "b": card, "c": other, "d": card}) == {
        "a": "dense",
        "b": "px_conserved at 95%, b",
        "c": "px_conserved at 80%",
        "d": "px_conserved at 95%, d",
    }


def test_pictures_are_made_smaller_in_proportion() -> None:
    assert fitted(picture((400, 1000)), 250).shape == (100, 250, 3)
    assert fitted(picture((1000, 3)), 250).shape == (250, 1, 3)
    image = picture((250, 30))
    assert fitted(image, 250) is image
    assert np.abs(fitted(np.full((64, 64, 3), 77, np.uint8), 9) - 77.0).max() == 0


def test_no_file_of_the_machine_is_shown(finished: Path, tmp_path: Path) -> None:
    """Who reaches the page can ask its function for any path."""
    Image.fromarray(picture((30, 40))).save(tmp_path / "secret.png")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture((30, 40))).save(tmp_path / "pictures" / "own.png")
    card = read_card(finished)
    found, _ = contenders(finished, card, "cpu")
    page = build_page("title", {"masked": found["masked"]}, card.classes, 640, 1, tmp_path / "pictures")
    (look,) = [one.fn for one in page.fns.values() if one.fn is not None]
    assert look({"path": str(tmp_path / "pictures" / "own.png")})[1].startswith("#### masked\n")
    for path in (tmp_path / "secret.png", tmp_path / "pictures" / ".." / "secret.png"):
        with pytest.raises(gradio.Error, match="is not a picture that was dropped here"):
            look({"path": str(path)})
    for wrong in ({"x": 1}, {"path": None}, {"path": "a\0b"}, {"path": 3}):
        with pytest.raises(gradio.Error, match="this is no picture"):
            look(wrong)
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(gradio.Error, match="is not a picture that was dropped here"):
        look({"path": str(tmp_path / "pictures" / "link.png")})


def test_bad_input_is_one_line(
    finished: Path, small: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    classify("--config", small, "--method", "dense", "--sparsity", 0, "--epochs", 0, "--output_dir", tmp_path / "cls")
    go("--config", tiny, "--method", "dense", "--sparsity", 0, "--epochs", 0, "--output_dir", tmp_path / "other")

    def failing(*words: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["demo", *map(str, words)])
        assert caught.value.code == 2
        (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
        return line

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port} cannot be served: Address already in use" in failing(finished, "--port", port)
    assert "--port 70000 cannot be served" in failing(finished, "--port", 70000)
    assert "--host nowhere.invalid cannot be served" in failing(finished, "--host", "nowhere.invalid")
    assert "is of a classifier" in failing(tmp_path / "cls")
    assert "tell different classes apart" in failing(finished, tmp_path / "other")
    assert "there is no finished run in" in failing(tmp_path)
    assert "takes a whole number from 1 on" in failing(finished, "--side", 0)
    if not torch.cuda.is_available():
        assert "needs a GPU" in failing(finished, "--device", "cuda")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gradio", None)
        assert failing(finished) == "error: gradio is not installed: pip install 'px_seg[demo]' brings it"
