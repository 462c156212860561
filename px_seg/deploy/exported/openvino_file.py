"""Networks in OpenVINO's files, in float32 and in INT8."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from px_seg.deploy.exported.onnx_file import Runtime
from px_seg.errors import InputError, one_line
from px_seg.extras import extra, variable

_ROOM = "px_seg"
"""Where in a file's notes ours are."""


def write_openvino(onnx_file: Path, file: Path, notes: Mapping[str, str]) -> None:
    """Write a network that `write_onnx` wrote as OpenVINO's FILE.xml, and FILE.bin beside it, in float32.

    Raises InputError where OpenVINO is missing or cannot read the network.
    """
    try:
        model = _core().read_model(str(onnx_file))
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot read {onnx_file}: {one_line(error, 200)}") from error
    _save(model, file, notes)


def quantise(
    source: Path, file: Path, notes: Mapping[str, str], images: Sequence[np.ndarray], weight_range: str = "half"
) -> None:
    """Write a network that `write_openvino` wrote in INT8, as FILE.xml and FILE.bin.

    Weights have a scale for each output channel, activations one a tensor, from their range over `images`, each
    (1, 3, H, W) float32, normalised. Raises InputError where a package is missing or there is no image.

    Weights use half of INT8's range, or all of it with "whole" as `weight_range`: finer, and for processors with VNNI
    alone. Others add two products of an activation and a weight in 16 bits, which saturate then.
    """
    with _nncf() as nncf:
        if not images:
            raise InputError("INT8 needs images to calibrate on, and the training set has none")
        model = _core().read_model(str(source))
        fix = {"half": nncf.OverflowFix.ENABLE, "whole": nncf.OverflowFix.DISABLE}[weight_range]
        chosen = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
        quantised = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), advanced_parameters=chosen)
    _save(quantised, file, notes)


def open_openvino(file: Path) -> Runtime:
    """The file in OpenVINO, on the CPU, with as many threads as torch has. InputError where it cannot be read."""
    # Lower precisions than the file's are OpenVINO's own choice on some processors.
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        model = _core().read_model(str(file))
        compiled = _core().compile_model(model, "CPU", settings)
        notes = {name: model.get_rt_info([_ROOM, name]).astype(str) for name in _names(model)}
    except RuntimeError as error:
        raise InputError(f"{file} is not a network that OpenVINO reads: {one_line(error, 160)}") from None
    request = compiled.create_infer_request()

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([images.numpy()])[0])

    return Runtime(logits, notes, torch.device("cpu"))


def weights_beside(file: Path) -> Path:
    """The file of weights that belongs to OpenVINO's FILE.xml."""
    return file.with_suffix(".bin")


@cache
def _core() -> Any:
    """OpenVINO's Core, one for the process.

    Each has a stack of its own for signal handlers, and gives back the one that it found when it ends. Of two that end
    in the order in which they began, the second gives back the first's, which is no more: the next signal then ends the
    process. Python handles SIGCHLD once a DataLoader has had workers.
    """
    with _untold():
        return extra("openvino", "export").Core()


def _save(model: Any, file: Path, notes: Mapping[str, str]) -> None:
    openvino = extra("openvino", "export")
    for name, note in notes.items():
        model.set_rt_info(note, [_ROOM, name])
    openvino.save_model(model, str(file), compress_to_fp16=False)


def _names(model: Any) -> list[str]:
    return list(model.get_rt_info(_ROOM).value) if model.has_rt_info(_ROOM) else []


@contextmanager
def _untold() -> Iterator[None]:
    """OpenVINO reports every import to its makers, and NNCF every use, but where they are tests of a project."""
    with variable("CI", "true"), variable("NNCF_CI", "1"):
        yield


@contextmanager
def _nncf() -> Iterator[Any]:
    """NNCF, without its lines on a terminal."""
    with _untold():
        nncf = extra("nncf", "export")
        nncf.set_log_level(logging.ERROR)
        # Its progress bars are for terminals, and go to the standard output.
        with redirect_stdout(io.StringIO()):
            yield nncf
