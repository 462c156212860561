"""What scripts say in place of a traceback."""

import socket
import subprocess
import sys

import pytest

ENDINGS = {
    "InputError('--seed: none')": (2, "error: --seed: none"),
    "Taken('by process 1')": (75, "error: by process 1"),
    "TrainingDiverged('epoch 3')": (3, "error: training diverged: epoch 3"),
    "KeyboardInterrupt": (130, "interrupted: go on"),
    "Stopped(2)": (130, "interrupted: go on"),
    "Stopped(15)": (143, "stopped by SIGTERM: go on"),
}


@pytest.mark.parametrize("raised", ENDINGS)
def test_a_line_and_its_end_are_written_as_one(raised) -> None:
    """So that two processes that fail at once say two lines: a socket of datagrams keeps writes apart."""
    code = (
        "from px_seg.errors import InputError, Stopped, Taken, TrainingDiverged, one_line_errors\n"
        f"with one_line_errors('interrupted: go on'): raise {raised}"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours:
        with theirs:
            done = subprocess.run([sys.executable, "-c", code], stderr=theirs.fileno(), check=False)
        ours.setblocking(False)
        status, line = ENDINGS[raised]
        assert (done.returncode, ours.recv(4096)) == (status, f"{line}\n".encode())
        with pytest.raises(BlockingIOError):
            ours.recv(4096)
