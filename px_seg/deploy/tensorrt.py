"""TensorRT's own program, which builds an ONNX file for a GPU and says what its sparse matrix units take of it."""

import shlex
from pathlib import Path

from px_seg.deploy.exported.onnx_file import INPUT


def sparse_command(file: Path, size: int) -> str:
    """What builds an ONNX file for one image of `size` pixels in half precision; its log names the sparse layers.

    For TensorRT up to 10. From 11 on a network's precision is that of its file, and there is no --fp16.
    """
    return (
        f"trtexec --onnx={shlex.quote(str(file))} --shapes={INPUT}:1x3x{size}x{size} --fp16 --sparsity=enable --verbose"
    )
