"""README.md and docs/ are right: snippets run, links and file names resolve, and every page lists its sections."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
from helpers.runs import CONFIGS, REPOSITORY, go, smaller
from PIL import Image

import px_seg
from px_seg.data.synthetic import SyntheticObjects
from px_seg.deploy.card import read_card
from px_seg.deploy.exported import write_onnx
from px_seg.deploy.exported.network import notes_of
from px_seg.pruning import CRITERIA
from px_seg.pruning.rules import GATES, RULES
from px_seg.tasks import Classification

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
GUIDES = sorted(DOCS.glob("*.md"))

# What snippets need: a path that they mention, and what makes it in the folder where they run.


def _photo(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(path)


def _segmenter(path: Path) -> None:
    data, pruning = {"train_images": 4, "val_images": 2, "size": 32}, {"batches": 1, "batch_size": 2}
    config = smaller(CONFIGS / "seg" / "synthetic.yaml", path.parent / "tiny.yaml", data, pruning, batch_size=2)
    go("--config", config, "--epochs", 0, "--method", "random", "--output_dir", path)


def _classifier(path: Path) -> None:
    data = ("--data.size", 32, "--data.train_images", 30, "--data.val_images", 15)
    flags = ("--encoder", "resnet20", "--epochs", 0, "--method", "random", "--batch_size", 10)
    go(*data, *flags, "--output_dir", path, task=Classification)


def _exported(path: Path) -> None:
    model = px_seg.load_model(path.parent.parent)
    path.parent.mkdir(exist_ok=True)
    write_onnx(model, path, notes_of(read_card(path.parent.parent), None))


NEEDS: dict[str, Callable[[Path], None]] = {
    "photo.jpg": _photo,
    "runs/seg/synthetic/resnet18/px/0.8/seed0": _segmenter,
    "runs/seg/synthetic/resnet18/px/0.8/seed0/export/model.onnx": _exported,
    "runs/cls/synthetic/resnet18/px/0.9/seed0": _classifier,
}

# What must be true after a snippet that contains this text. What `print(...)  # text` prints is checked for all.


def _masks_hold(names: dict[str, Any]) -> bool:
    return Path("masks.safetensors").is_file() and names["masks"].revived(names["model"].state_dict()) == {}


CLAIMS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "masks.hold(": _masks_hold,
    "scores = px_seg.PX().score(model, batches, scope=": lambda names: names["scores"].keys() == names["masks"].keys(),
    "masks.apply(classifier)": lambda names: names["masks"].revived(names["classifier"].state_dict()) == {},
    "px_seg.predict(": lambda names: names["labels"].shape == (70, 90),
    "model.names[": lambda names: names["name"] in SyntheticObjects.every,
}


class Snippet(NamedTuple):
    """A block of Python, and the number of its first line."""

    page: Path
    line: int
    section: str
    code: str

    def __str__(self) -> str:
        return f"{_named(self.page)}:{self.line}"


class Heading(NamedTuple):
    level: int
    text: str


def _snippets(page: Path) -> Iterator[Snippet]:
    """The Python of a page; YAML, BibTeX and the like are passed over."""
    section, fence, start, code = "", None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence is None and line.startswith("## "):
            section = line
        elif fence is None and line.startswith("```"):
            fence, start, code = line, number + 1, []
        elif fence is not None and line == "```":
            if fence == "```python":
                yield Snippet(page, start, section, "\n".join(code))
            fence = None
        elif fence is not None:
            code.append(line)


SNIPPETS = [snippet for page in PAGES for snippet in _snippets(page)]


def _prose(page: Path) -> str:
    """A page without its fenced code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _headings(page: Path) -> list[Heading]:
    found = re.findall(r"^(#{1,6}) +(.+?) *$", _prose(page), re.MULTILINE)
    return [Heading(len(marks), text) for marks, text in found]


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings: a heading that comes again is numbered."""
    anchors: set[str] = set()
    for _, text in _headings(page):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
        plain = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        anchor, again = plain, 0
        while anchor in anchors:
            anchor = f"{plain}-{(again := again + 1)}"
        anchors.add(anchor)
    return anchors


def _named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run snippets in; what they teach px_seg is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    with patch.dict(CRITERIA), patch.dict(GATES), patch.dict(RULES):
        yield tmp_path


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_a_snippet_runs_as_it_stands(snippet: Snippet, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "snippet"}
    for earlier in SNIPPETS:
        # Snippets of one section may build on each other.
        if earlier.page != snippet.page or earlier.section != snippet.section or earlier.line > snippet.line:
            continue
        for path, make in NEEDS.items():
            if path in earlier.code and not (workplace / path).exists():
                (workplace / path).parent.mkdir(parents=True, exist_ok=True)
                make(workplace / path)
        capsys.readouterr()
        exec(compile(earlier.code, str(earlier), "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    for said in re.findall(r"^print\(.*\)  # (.+)$", snippet.code, re.MULTILINE):
        assert said in printed
    for text, holds in CLAIMS.items():
        assert text not in snippet.code or holds(names), text


def test_every_need_and_claim_is_of_a_snippet() -> None:
    every = "\n".join(snippet.code for snippet in SNIPPETS)
    assert [text for text in (*NEEDS, *CLAIMS) if text not in every] == []


def _criteria() -> list[tuple[Snippet, str]]:
    found = [(snippet, re.search(r'@register\("(\w+)"\)', snippet.code)) for snippet in SNIPPETS]
    return [(snippet, name[1]) for snippet, name in found if name]


@pytest.mark.parametrize(("snippet", "name"), _criteria(), ids=str)
def test_a_criterion_runs_by_the_command_below_it(snippet: Snippet, name: str, tiny: Path, workplace: Path) -> None:
    shown = rf"^    python scripts/seg\.py (--criteria (\S+) .*--method {name}\b.*)$"
    command = re.search(shown, snippet.page.read_text(), re.MULTILINE)
    assert command is not None, f"no command shows how {name} is used"
    (workplace / command[2]).write_text(snippet.code)
    flags = shlex.split(command[1])
    results = go("--config", tiny, *flags, "--epochs", 0, "--output_dir", workplace / "out")
    assert results["method"] == name
    assert results["sparsity"] == float(flags[flags.index("--sparsity") + 1])


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 170
    assert "    pip install -e . && accelerate launch scripts/seg.py --sparsity 0.8" in lines
    assert "    pip install -e '.[test]' && pytest" in lines
    assert any("In Python" in text for _, text in _headings(README))


def _resolves(link: str, page: Path) -> bool:
    """Whether a link of this page leads to a file of the repository, and to a heading of it if it names one."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(REPOSITORY):
        return False
    return not anchor or (target.suffix == ".md" and anchor in _anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    own = [link for link in _links(_prose(page)) if not link.startswith(("http://", "https://"))]
    assert [link for link in own if not _resolves(link, page)] == []


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_files_and_presets_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"(?<![\w/.-])(?:configs|scripts|px_seg|tests|docs)/[\w./-]*", text)
    presets = [f"configs/sweep/{name}.yaml" for name in re.findall(r"--preset (\w+)", text)]
    assert sorted({name for name in (*files, *presets) if not (REPOSITORY / name.rstrip(".")).exists()}) == []


@pytest.mark.parametrize("page", GUIDES, ids=_named)
def test_a_page_begins_with_what_it_contains(page: Path) -> None:
    sections = [text for level, text in _headings(page) if level == 2]
    title, first, contents = page.read_text().split("\n\n")[:3]
    assert title.startswith("# ")
    assert not first.startswith(("#", "-", "|", "!", " "))
    assert contents.startswith("- [")
    listed = re.findall(r"^- \[(.+)\]\(#\S+\)$", contents, re.MULTILINE)
    assert listed == sections


def test_every_page_is_in_the_index() -> None:
    listed = {link.partition("#")[0] for link in _links((DOCS / "README.md").read_text())}
    assert [page.name for page in GUIDES if page.name not in listed | {"README.md"}] == []
