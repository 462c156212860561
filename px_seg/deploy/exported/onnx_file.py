"""Networks in ONNX files."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from px_seg.cost import synchronise
from px_seg.deploy.exported.any_size import of_any_size, pads_to_fit
from px_seg.errors import InputError, one_line
from px_seg.extras import check_extra, extra
from px_seg.files import replacing
from px_seg.models import COARSEST, Classifier, channels_of, stride_of, whole_logits
from px_seg.pruning.modes import evaluating

INPUT, OUTPUT = "image", "logits"

TOLERANCE = 1e-4
"""The most by which a file's logits may differ from the network's, as a share of the largest."""


class Runtime(NamedTuple):
    """A file opened to be run."""

    logits: Callable[[Tensor], Tensor]
    """Of images (N, 3, H, W), contiguous float32 on `device`, and on it."""
    notes: Mapping[str, str]
    """What travels in the file."""
    device: torch.device


class Provider(NamedTuple):
    """What onnxruntime carries a file out with."""

    name: str
    """As onnxruntime calls it."""
    settings: Mapping[str, str]
    device: str
    remedy: str = ""
    """What to do where it is not there."""


_GPU = "pip install onnxruntime-gpu in place of onnxruntime"

PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", {}, "cpu"),
    # TF32, which it takes by default, is not what the other runtimes compute in.
    "cuda": Provider("CUDAExecutionProvider", {"use_tf32": "0"}, "cuda:0", _GPU),
    # Where weights are in the pattern 2:4 TensorRT may use sparse units, if they are faster.
    "tensorrt": Provider(
        "TensorrtExecutionProvider", {"trt_sparsity_enable": "True"}, "cuda:0", f"{_GPU}, and tensorrt as it asks for"
    ),
}
"""By where a file is to be run."""


def write_onnx(model: nn.Module, file: Path, notes: Mapping[str, str], size: int = 64) -> float:
    """Write a segmenter or classifier as ONNX, and return by how much onnxruntime's logits differ.

    The file takes `image`, (N, C, H, W) float32, normalised, of any number and size, and gives `logits`, (N, classes,
    H, W) or (N, classes); a segmenter's pads the image as `px_seg.predict` does. Only a classifier some of whose layers
    pad by the size of their input takes sides that `multiple_of` divides alone. `notes` travel in the file's metadata.
    It appears only once onnxruntime gives the model's logits on random images of about `size` and of other sizes, up
    to TOLERANCE of the largest; the difference is returned in the same way. The model comes back as it was.

    Raises InputError where a package is missing, where an operation of the model cannot be exported, and where the
    logits differ.
    """
    onnx = extra("onnx", "export")
    for package in ("onnxscript", "onnxruntime"):
        check_extra(package, "export")
    fresh, step = of_any_size(model, _stride(model)).cpu().float(), multiple_of(model)
    # Sides that no stride divides, so that nothing about them is taken for a rule.
    side = max(size // step, 1) * step if step > 1 else size | 1
    program = _program(fresh, torch.zeros((2, channels_of(model), side, side + step)), step, type(model).__name__)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {**{one.key: one.value for one in proto.metadata_props}, **notes})
    _name_sizes(proto)
    with replacing(file) as fresh_file:
        onnx.save(proto, fresh_file)
        difference = difference_of(model, open_onnx(fresh_file), size)
    return difference


def is_listed(where: str) -> bool:
    """Whether onnxruntime is there and says that it can run files there. It may lack libraries all the same."""
    try:
        return PROVIDERS[where].name in extra("onnxruntime", "export").get_available_providers()
    except InputError:
        return False


def multiple_of(model: nn.Module) -> int:
    """What has to divide the sides of an image that the exported file is given."""
    fixed = _stride(model) is None and any(pads_to_fit(module) for module in model.modules())
    return COARSEST if fixed else 1


def open_onnx(file: Path, where: str = "cpu") -> Runtime:
    """The file in onnxruntime, on the CPU with as many threads as torch has, or by another of PROVIDERS.

    Raises InputError where it cannot be read, and where onnxruntime has not that provider.
    """
    onnxruntime, provider = extra("onnxruntime", "export"), PROVIDERS[where]
    lacking = f"onnxruntime has no {provider.name} here, which {where} needs: {provider.remedy}"
    if provider.name not in onnxruntime.get_available_providers():
        raise InputError(lacking)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    # What TensorRT does not take is done on the GPU, too.
    order = [provider, PROVIDERS["cuda"]] if where == "tensorrt" else [provider]
    chosen = [(one.name, dict(one.settings)) for one in order]
    try:
        session = onnxruntime.InferenceSession(str(file), options, chosen, enable_fallback=0)
        names = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    except Exception as error:
        # onnxruntime has no common class for what it raises.
        what = f"is not an ONNX file that onnxruntime reads{'' if where == 'cpu' else f' and runs by {provider.name}'}"
        raise InputError(f"{file} {what}: {one_line(error, 160)}") from None
    if names != ([INPUT], [OUTPUT]):
        raise InputError(f"{file} is the ONNX file of another program: px_seg's take {INPUT} and give {OUTPUT}")
    # Where its libraries are missing, onnxruntime takes the CPU and goes on.
    if session.get_providers()[0] != provider.name:
        raise InputError(lacking)
    device = torch.device(provider.device)
    given = session.get_outputs()[0].shape

    def logits(images: Tensor) -> Tensor:
        found = torch.empty((len(images), given[1], *images.shape[2 : len(given)]), device=device)
        binding, place = session.io_binding(), (device.type, device.index or 0, np.float32)
        binding.bind_input(INPUT, *place, tuple(images.shape), images.data_ptr())
        binding.bind_output(OUTPUT, *place, tuple(found.shape), found.data_ptr())
        # onnxruntime has a stream of its own.
        synchronise(device)
        session.run_with_iobinding(binding)
        return found

    return Runtime(logits, session.get_modelmeta().custom_metadata_map, device)


def difference_of(model: nn.Module, runtime: Runtime, size: int) -> float:
    """The largest difference of a file's logits from those of the model it was made of, as a share of the largest.

    On random images of several numbers and sizes. Raises InputError where it is above TOLERANCE.
    """
    step, worst = multiple_of(model), 0.0
    draws = torch.Generator().manual_seed(0)
    for count, height, width in ((1, size, size), (3, size + 7, size // 2 + 9)):
        sides = [max(side // step, 1) * step for side in (height, width)]
        images = torch.randn((count, channels_of(model), *sides), generator=draws)
        expected = _expected(model, images)
        try:
            found = runtime.logits(images)
        except Exception as error:
            # Neither runtime has a class for what it raises.
            raise InputError(
                f"the exported file does not take {tuple(images.shape)} and give {tuple(expected.shape)}: "
                f"{one_line(error, 160)}"
            ) from error
        if found.shape != expected.shape:
            raise InputError(f"the exported file gives {tuple(found.shape)} in place of {tuple(expected.shape)}")
        difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
        if math.isnan(difference):
            raise InputError("the exported file's logits, or the network's own, are NaN: nothing was written")
        worst = max(worst, difference)
    if not worst <= TOLERANCE:
        raise InputError(
            f"the exported file's logits differ from the network's by {worst:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}: nothing was written"
        )
    return worst


def _expected(model: nn.Module, images: Tensor) -> Tensor:
    parameter = next(model.parameters())
    images, stride = images.to(parameter), _stride(model)
    with evaluating(model), torch.inference_mode():
        return (model(images) if stride is None else whole_logits(model, images, stride)).float().cpu()


def _stride(model: nn.Module) -> int | None:
    """What divides the sides of a segmenter's images; None for a classifier."""
    return None if isinstance(model, Classifier) else stride_of(model)


def _program(fresh: nn.Module, images: Tensor, multiple: int, name: str) -> Any:
    height, width = (multiple * Dim(side) if multiple > 1 else Dim.DYNAMIC for side in ("h", "w"))
    sizes = ({0: Dim.DYNAMIC, 2: height, 3: width},)
    try:
        with _quiet(), torch.no_grad():
            graph = torch.export.export(fresh, (images,), dynamic_shapes=sizes)
            program = torch.onnx.export(
                graph, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, external_data=False
            )
    except Exception as error:
        # torch.export and the translation to ONNX raise whatever fails in them.
        raise InputError(f"this {name} cannot be exported to ONNX: {_cause(error)}") from error
    assert program is not None
    return program


def _cause(error: BaseException) -> str:
    """What an exporter's error is about, in one line: the first of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, 240)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_sizes(proto: Any) -> None:
    """Sizes by the names that people know, where torch numbers them."""
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, ("N", "", "H", "W"), strict=False):
            if dimension.dim_param and name:
                dimension.dim_param = name
    # What is said of tensors within uses the old names, and a runtime finds it out by itself.
    del proto.graph.value_info[:]
