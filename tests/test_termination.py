"""Being told to end, in processes of their own."""

import os
import subprocess
import sys
import time

import pytest

WATCHED = """
import os, signal, sys, time
from px_seg.errors import Stopped
from px_seg.termination import Termination
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell(number, seconds=0.0):
    time.sleep(seconds)
    os.kill(os.getpid(), number)
termination = Termination()
try:
    with termination.listening():
        BODY
    print("went on")
except Stopped as stop:
    print(f"stopped by {stop.cause}")
"""


def ended(body: str) -> tuple[str, str]:
    code = WATCHED.replace("BODY", body.replace("\n", "\n        "))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip(), done.stderr.strip()


DEFERRED = "with termination.deferred():\n    tell({})\n    print('finished')\ntermination.check()"
TWICE = "with termination.deferred():\n    tell(2)\n    tell({}, {})\n    print('finished')\ntermination.check()"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("tell(15)\nprint('finished')", "stopped by SIGTERM"),
        ("tell(2)\nprint('finished')", "stopped by Ctrl-C"),
        (DEFERRED.format(15), "finished\nstopped by SIGTERM"),
        (DEFERRED.format(1), "finished\nstopped by SIGHUP"),
        # torchrun passes Ctrl-C on to processes that have had it from the terminal.
        (TWICE.format(2, 0.0), "finished\nstopped by Ctrl-C"),
        (TWICE.format(15, 1.5), "finished\nstopped by Ctrl-C"),
        (TWICE.format(2, 1.5), "stopped by Ctrl-C"),
    ],
)
def test_a_signal_stops_at_once_or_after_what_must_not_be_disturbed(body: str, said: str) -> None:
    out, err = ended(body)
    assert out == said
    assert err == (f"{said.rpartition(' ')[2]}: saving; Ctrl-C again stops at once" if "deferred" in body else "")


@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_signal_is_heard_where_nobody_reads_any_more(tmp_path, number: int) -> None:
    """A terminal that is closed, or a pipe whose reader has ended: what cannot be said does not stop the saving."""
    body = DEFERRED.format(number).replace("print('finished')", "bar(total=2).update(); print_line('x'); saved()")
    code = WATCHED.replace("BODY", body.replace("\n", "\n        "))
    code = code.replace("import os,", "from px_seg.progress import bar, print_line\nimport os,")
    code = f"from pathlib import Path\ndef saved(): Path({str(tmp_path / 'saved')!r}).touch()\n{code}"
    for end in (os.pipe, os.openpty):
        reader, writer = end()
        os.close(reader)
        done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=writer, timeout=120)
        os.close(writer)
        assert (tmp_path / "saved").exists(), done
        (tmp_path / "saved").unlink()


def test_what_a_shell_has_had_ignored_stays_ignored() -> None:
    """As nohup does, and a shell with what runs in its background."""
    body = "pass\nsignal.signal(1, signal.SIG_IGN)\nwith termination.listening():\n    tell(1)\n    termination.check()"
    assert ended(body)[0] == "went on"


LEFT = """
import os, sys, time
from px_seg.termination import Termination
termination = Termination()
print(os.getpid(), flush=True)
for _ in range(600):
    if termination.told:
        open(sys.argv[1], "w").write(str(termination.told))
        break
    time.sleep(0.1)
"""


@pytest.mark.parametrize("launched", [True, False])
def test_a_run_stops_when_its_launcher_dies_and_a_shell_may_go(tmp_path, launched: bool) -> None:
    words = f"[sys.executable, '-c', {LEFT!r}, {str(tmp_path / 'told')!r}]"
    start = f"import subprocess, sys, time; process = subprocess.Popen({words}); time.sleep(600)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE", "PX_SEG_B"))}
    if launched:
        environment["ACCELERATE_DYNAMO_MODE"] = "default"
    launcher = subprocess.Popen([sys.executable, "-c", start], env=environment, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    run = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + (60 if launched else 2)
    while time.monotonic() < until and not (tmp_path / "told").exists():
        time.sleep(0.05)
    assert (tmp_path / "told").exists() == launched
    if not launched:
        os.kill(run, 9)


def test_a_run_stops_when_the_process_beside_it_is_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "from px_seg.termination import Termination; print(Termination().told)"
    for beside, told in ((gone.pid, "15"), (os.getpid(), "None"), ("none", "None")):
        environment = {**os.environ, "PX_SEG_BESIDE": str(beside)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(told)
