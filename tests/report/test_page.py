"""The page, which needs nothing beside it."""

import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest
from helpers.sweeps import finished

from px_seg import InputError
from px_seg.report import report


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "img":
            assert attrs["alt"]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_beside_it(sweep) -> None:
    report(sweep, say=str)
    raw = (sweep / "report" / "index.html").read_text()
    page = Page(raw)
    assert page.open == []
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", raw))
    text = " ".join(page.text)
    for word in ("61.00 ± 1.00", "optimizer.backbone_lr", "random", "a note with <b>", "98.00%", "encoder.layer1"):
        assert word in text, word
    # Two sparsities, two images each, of image, truth, dense, px and random.
    assert sum(source.startswith("data:image/") for source in page.sources) == 2 * 2 * 5 + 2
    for name in ("curves", "densities"):
        assert (sweep / "report" / f"{name}.png").stat().st_size > 10_000
        xml.etree.ElementTree.parse(sweep / "report" / f"{name}.svg")


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_tables(tmp_path) -> None:
    for method in ("px", "snip"):
        folder = finished(tmp_path, method, 0.8, 0, 0.5)
    (folder / "samples.npz").unlink()
    (folder / "masks.safetensors").write_bytes(b"nothing")
    report(tmp_path, say=str)
    text = " ".join(Page((tmp_path / "report" / "index.html").read_text()).text)
    assert "snip" in text
    assert "weights kept in every layer are not drawn" in text
    assert "Not shown: snip (" in text
    (tmp_path / "report" / "table.md").unlink()
    (tmp_path / "report" / "table.md").mkdir()
    with pytest.raises(InputError, match=r"table\.md cannot be written: Is a directory"):
        report(tmp_path, say=str)
