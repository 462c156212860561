"""A sweep whose scores are known."""

from pathlib import Path

import pytest
from helpers.sweeps import finished

SCORES = {
    ("dense", 0.0): (0.70, 0.72, 0.71),
    ("px", 0.8): (0.68, 0.69, 0.70),
    ("px", 0.98): (0.60, 0.62, 0.61),
    ("random", 0.8): (0.69, 0.70, 0.71),
    ("random", 0.98): (0.40, 0.45, 0.50),
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for (method, sparsity), values in SCORES.items():
        for seed, score in enumerate(values):
            finished(tmp_path / "out", method, sparsity, seed, score)
    return tmp_path / "out"
