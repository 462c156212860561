"""The two path streams of PX, over any module tree built on torch functions.

A bias-free ReLU network is a sum over paths (docs/method.md, section 1). Two quantities of the
network are wanted, and both are what the network itself computes once its parts are read
differently:

- path activations g: every kept weight reads 1, the input is squared, and the gates are
  those of the true network running beside it;
- path kernel h: every kept weight reads theta**2, the input is all ones, and there are no
  gates.

Both are had by running the model, unchanged, on a tensor that intercepts every torch function
and looks up in `px_seg.pruning.paths.rules` what it means for a path. A function without a rule
raises UnsupportedOperation: nothing is passed over in silence.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from px_seg.pruning.outputs import leaves
from px_seg.pruning.paths.operations import UnsupportedOperation
from px_seg.pruning.paths.scaled import Scaled
from px_seg.pruning.paths.streams import Activations, BesideTrue, GatedKernel, Kernel
from px_seg.pruning.paths.tensors import Gate, PathTensor
from px_seg.pruning.paths.weights import Powers, TrueAndLive, TrueAndSquares, Weights

P = TypeVar("P", bound=PathTensor)


def path_activations(
    model: nn.Module, images: Tensor, weights: TrueAndLive, kind: type[Activations] = Activations
) -> list[Scaled]:
    """Sum over the batch of the path activations g (docs/method.md, section 1), one per model output.

    `images`: (N, ...), of the dtype that `weights` are read in, on the model's device; the model
    in eval mode. Each result has the shape of one sample's output, (1, ...), and at least
    float32. Raises UnsupportedOperation naming the module and the operation that is not
    defined for paths.
    """
    with torch.no_grad():
        return _summed_over_samples(model, images, weights, kind)


def path_kernel(model: nn.Module, sample: Tensor, weights: Powers, kind: type[Kernel] = Kernel) -> list[Scaled]:
    """The path kernel h (docs/method.md, section 1): sum over paths into output k of v_p(theta)**2.

    The square is the power that `weights` are read in, for which `kind` passes what is no weight.
    `sample`: any tensor of one sample's shape, (1, ...); only shape, dtype and device count.
    Each result has the shape of one sample's output and is differentiable with respect to
    `weights.leaves`. Raises UnsupportedOperation as `path_activations` does.
    """
    with torch.enable_grad():
        return [out.stream for out in _walk(model, kind.of(Scaled.of(torch.ones_like(sample)), weights))]


def gated_kernel(model: nn.Module, images: Tensor, weights: TrueAndSquares) -> list[Scaled]:
    """Sum over the batch of sum over paths into output k of v_p(theta)**2 a_p(x) x_s(p)**2, one per output.

    Arguments, shapes and errors are those of `path_activations`. Each result is differentiable with respect to
    `weights.leaves`; for this every layer's input is kept.
    """
    with torch.enable_grad():
        return _summed_over_samples(model, images, weights, GatedKernel)


def _summed_over_samples(model: nn.Module, images: Tensor, weights: Weights, kind: type[BesideTrue]) -> list[Scaled]:
    # Squared after the exponent is split off, so that small and large images keep their range.
    x = Scaled.of(images).normalised()
    start = kind.of(Scaled.of(x.values.square(), 2 * x.exponent), images.clone(), weights)
    outputs = _walk(model, start)
    for out in outputs:
        if out.dim() == 0 or len(out) != len(images):
            raise UnsupportedOperation(
                f"an output of the model has shape {tuple(out.shape)} for {len(images)} samples: "
                "paths are summed over the first dimension, which must be the samples"
            )
    wide = torch.promote_types(images.dtype, torch.float32)
    sums = []
    for out in outputs:
        stream = out.stream.normalised()
        # 0, unless the true network's output is not finite: its gates mean nothing then.
        poison = (out.true * 0).sum(dtype=wide)
        sums.append(stream.changed(stream.values.sum(0, keepdim=True, dtype=wide) + poison))
    return sums


def _walk(model: nn.Module, start: P) -> list[P]:
    try:
        outputs = list(leaves(model(start)))
    except UnsupportedOperation as error:
        raise UnsupportedOperation(f"{_module_of(error, model)}: {error}") from None
    except Exception as error:
        if "TorchScript" in str(error):
            raise UnsupportedOperation(
                f"{_module_of(error, model)}: code compiled by torch.jit hides its operations from PX"
            ) from error
        error.add_note(f"while PX walked through {_module_of(error, model)}")
        raise
    for out in outputs:
        if isinstance(out, Gate):
            raise UnsupportedOperation(
                "an output of the model is that of a sigmoid, which carries no paths: score its input"
            )
        if not isinstance(out, PathTensor):
            raise UnsupportedOperation(f"an output of the model carries no paths: it is a {type(out).__name__}")
    if not outputs:
        raise UnsupportedOperation("the model returns no tensor")
    return outputs


def _module_of(error: BaseException, model: nn.Module) -> str:
    """The innermost module that was running, found in the traceback: no hooks are needed."""
    names = {id(module): name for name, module in model.named_modules()}
    where, frame = "", error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        where = names.get(id(owner), where)
        frame = frame.tb_next
    return f"{where or 'the model'} ({type(model.get_submodule(where)).__name__})"
