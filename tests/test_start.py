"""What is imported when, and Ctrl-C before anything is."""

import subprocess
import sys

import pytest

import px_seg


def test_every_public_name_is_there_and_imports_no_more_than_it_takes() -> None:
    assert all(getattr(px_seg, name).__name__ == name for name in px_seg.__all__)
    assert set(px_seg.__all__) <= set(dir(px_seg))
    with pytest.raises(AttributeError, match="module 'px_seg' has no attribute 'Masked'"):
        px_seg.Masked  # noqa: B018
    code = "import sys, px_seg; px_seg.InputError; print({'torch', 'timm'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_command_begins_without_what_draws_or_scores() -> None:
    """Each takes a second or so that a run need not wait for before it has looked at its input."""
    late = "{'matplotlib', 'torchmetrics', 'scipy.signal', 'jinja2', 'gradio', 'onnx', 'onnxruntime', 'openvino'}"
    code = f"import sys, px_seg.commands; print({late} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_ctrl_c_during_imports_is_answered_in_a_line(tmp_path) -> None:
    """A stand-in for a module that the commands import takes the signal."""
    (tmp_path / "timm.py").write_text("raise KeyboardInterrupt")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from px_seg.__main__ import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
