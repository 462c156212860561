"""The README's Python does what it says."""

import re

from conftest import REPOSITORY


def test_the_first_snippet_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = (REPOSITORY / "README.md").read_text().split("## In Python")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    names: dict = {}
    exec(code, names)
    assert (tmp_path / "masks.safetensors").is_file()
    assert names["masks"].revived(names["model"].state_dict()) == {}
    assert names["scores"].keys() == names["masks"].keys()
