"""The README's Python does what it says."""

import re

import pytest
from conftest import REPOSITORY, go
from PIL import Image

from px_seg.data import SyntheticObjects
from px_seg.pruning import CRITERIA
from px_seg.tasks import Classification


def test_the_first_snippet_runs_as_it_stands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = (REPOSITORY / "README.md").read_text().split("## In Python")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    names: dict = {}
    exec(code, names)
    assert (tmp_path / "masks.safetensors").is_file()
    assert names["masks"].revived(names["model"].state_dict()) == {}
    assert names["scores"].keys() == names["masks"].keys()


def test_a_trained_classifier_is_used_as_shown(tmp_path, monkeypatch, capsys) -> None:
    flags = ("--data.size", 32, "--data.train_images", 30, "--data.val_images", 15, "--epochs", 0, "--method", "random")
    go(*flags, "--encoder", "resnet20", "--batch_size", 10, "--output_dir", tmp_path / "run", task=Classification)
    Image.new("RGB", (300, 250), "teal").save(tmp_path / "photo.jpg")
    section = (REPOSITORY / "docs" / "classification.md").read_text().split("## Using a classifier")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("runs/.../seed0", "run"), {})
    assert capsys.readouterr().out.strip().splitlines()[-1] in SyntheticObjects.every


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
