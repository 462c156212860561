"""Runs whose networks' costs are known."""

from pathlib import Path

from px_seg.deploy.latency import Cost
from px_seg.deploy.runs import Measured, Setting, save_measured


def measured(folder: Path, dense: float, small: float, parameters: int, setting: Setting | None = None) -> None:
    """As if the run's dense network had taken that many milliseconds, and its compacted one that many."""
    costs = {
        name: Cost(milliseconds, (milliseconds, milliseconds), 2**20, count, 2000 * count)
        for name, milliseconds, count in (("dense", dense, 1_000_000), ("compacted", small, parameters))
    }
    networks = costs if small != dense else {"dense": costs["dense"]}
    save_measured(folder, Measured(setting or Setting(), networks, {}))
