"""The README's Python does what it says."""

import re

import pytest
from conftest import REPOSITORY, go

from px_seg.pruning import CRITERIA


def test_the_first_snippet_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = (REPOSITORY / "README.md").read_text().split("## In Python")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    names: dict = {}
    exec(code, names)
    assert (tmp_path / "masks.safetensors").is_file()
    assert names["masks"].revived(names["model"].state_dict()) == {}
    assert names["scores"].keys() == names["masks"].keys()


@pytest.mark.parametrize(
    ("page", "method", "settings"),
    [("README.md", "smallest", ()), ("docs/criteria.md", "gradient_power", ("--pruning.settings.a", 0.5))],
)
def test_a_criterion_of_ones_own_is_used_as_shown(tiny, tmp_path, page: str, method: str, settings: tuple) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    (code,) = (block for block in blocks if f'@register("{method}")' in block)
    (tmp_path / "mine.py").write_text(code)
    flags = ("--config", tiny, "--epochs", 0, "--criteria", tmp_path / "mine.py", "--method", method)
    try:
        results = go(*flags, *settings, "--output_dir", tmp_path / "out")
    finally:
        CRITERIA.pop(method, None)
    assert (results["method"], results["sparsity"]) == (method, 0.8)
