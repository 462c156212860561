"""Sweeps of stand-ins start them directly."""

import pytest
from helpers.sweeps import directly

from px_seg.sweep import launchers


@pytest.fixture(autouse=True)
def _without_accelerate_launch(monkeypatch) -> None:
    monkeypatch.setattr(launchers, "command", directly)
