"""What is waited for in other processes, and how claims grow old."""

import os
import time
from pathlib import Path

from px_seg.sweep.claimed_run import EXPIRES


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def grow_old(path: Path) -> None:
    past = path.stat().st_mtime - EXPIRES - 1
    os.utime(path, (past, past))
