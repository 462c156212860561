"""Labelled images that several files read."""

from pathlib import Path

import pytest
from helpers.pictures import picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train and val of two classes, three and two images each."""
    for split, count in {"train": 3, "val": 2}.items():
        for name in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / "data" / split / name / f"{number}.jpg", seed=number)
    return tmp_path / "data"
