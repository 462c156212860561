"""The dense network and the pruned one on the same images, layer by layer, in one pass."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from px_seg.errors import InputError
from px_seg.pruning.modes import evaluating, undisturbed

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Layer(NamedTuple):
    """A masked layer of the pruned network, its weights in force those of the copy that is being repaired."""

    name: str
    """Of the weight."""
    module: nn.Module
    mask: Tensor
    norm: _BatchNorm | None
    """The BatchNorm of the pruned network that reads this layer's outputs, and nothing else."""


def channels_last(module: nn.Module, outputs: Tensor) -> Tensor:
    """What a layer returns, as (N, positions, channels); a linear layer has them last already."""
    moved = outputs if isinstance(module, nn.Linear) else outputs.movedim(1, -1)
    return moved.flatten(1, -2) if moved.dim() > 2 else moved[:, None]


Repair = Callable[[Layer, Tensor, Tensor], None]
"""Changes the layer in place, given its inputs in the pruned network and the dense layer's outputs, over all images."""


def side_by_side(model: nn.Module, masks: Mapping[str, Tensor], images: Tensor, repair: Repair) -> nn.Module:
    """A copy of the model under `masks`, in at least float32, with `repair` applied to its masked layers.

    They come in the order in which the network uses them. The inputs that a layer is repaired on are those of the
    copy, all layers before it being repaired; the outputs are the dense network's, on its own inputs. A layer that is
    used several times is repaired at its first use. Both run in eval mode, on `images` (N, C, H, W) at once.

    Raises InputError for a transposed convolution, for a weight that is not read once by its own layer and nowhere
    else (tied or standardised weights, the output projection of an attention), and for a layer whose inputs do not
    have the images in the first dimension.
    """
    wide = torch.promote_types(next(iter(model.parameters())).dtype, torch.float32)
    owners = {f"{path}.weight" if path else "weight": path for path, _ in model.named_modules()}
    layers = {}
    # Copies made in inference mode, which undisturbed ends, could not be changed; it turns gradients on again.
    with undisturbed(images.device), torch.no_grad(), ExitStack() as modes:
        dense, pruned = (copy.deepcopy(model).to(wide) for _ in range(2))
        for network in (dense, pruned):
            modes.enter_context(evaluating(network))
        weights = dict(pruned.named_parameters())
        for name, mask in masks.items():
            module = pruned.get_submodule(owners[name])
            if isinstance(module, _TRANSPOSED):
                raise InputError(f"{name} is of a transposed convolution, which cannot be repaired: use statistics")
            weights[name].mul_(mask.to(weights[name]))
            layers[owners[name]] = (name, module, mask)
        followers = _followers(dense, images[:1], layers)
        with _paired(dense, pruned, layers, followers, repair, len(images)):
            dense(torch.cat([images, images]))
    return pruned


def _followers(model: nn.Module, image: Tensor, layers: Mapping[str, tuple[str, nn.Module, Tensor]]) -> dict[str, str]:
    """The BatchNorm, by path, that alone reads what a layer returns, at the layer's first use if there are several.

    InputError for a weight that is read otherwise than once in every call of its layer.
    """
    outputs: list[tuple[str, Tensor]] = []
    norms: dict[int, str] = {}
    weights = {path: model.get_submodule(path).get_parameter("weight") for path in layers}
    readers = _Readers(weights.values())

    def note(path: str, inputs: Sequence[Tensor], output: Tensor) -> None:
        if path in layers:
            # Kept, so that no other tensor gets its identity, which one that is gone may have had before.
            outputs.append((path, output))
            readers.counts[id(output)] = 0
        elif inputs and id(inputs[0]) in readers.counts:
            norms[id(inputs[0])] = path

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output))
        for path, module in model.named_modules()
        if path in layers or isinstance(module, _BatchNorm)
    ]
    try:
        with readers:
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    calls = Counter(path for path, _ in outputs)
    for path, (name, *_) in layers.items():
        if readers.counts[id(weights[path])] != calls[path]:
            raise InputError(
                f"{name} is not read once by its own layer and nowhere else, so it cannot be repaired: use statistics"
            )
    first = {path: output for path, output in reversed(outputs)}
    return {
        path: norms[id(output)]
        for path, output in first.items()
        if id(output) in norms and readers.counts[id(output)] == 1
    }


class _Readers(TorchFunctionMode):
    """Counts how many operations read the tensors in `counts`, by identity; what returns no tensor is none."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.counts = Counter({id(tensor): 0 for tensor in tensors})

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.counts.update(read & self.counts.keys())
        return found


@contextmanager
def _paired(
    dense: nn.Module,
    pruned: nn.Module,
    layers: Mapping[str, tuple[str, nn.Module, Tensor]],
    followers: Mapping[str, str],
    repair: Repair,
    images: int,
) -> Iterator[None]:
    """Within the context the first half of a batch passes the dense network's layers, the second the pruned one's.

    The batch has each of the images twice.
    """
    replaced = {
        path: module for path, module in dense.named_modules() if path in layers or isinstance(module, _BatchNorm)
    }
    twins = dict(pruned.named_modules())
    done: set[str] = set()

    def paired(path: str, forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def both(*given: Tensor, **named: Tensor) -> Tensor:
            (inputs,) = (*given, *named.values())
            if len(inputs) % (2 * images):
                raise InputError(
                    f"{path} is given {tuple(inputs.shape)} for {2 * images} images, which are not in the first "
                    "dimension, and cannot be repaired: use statistics"
                )
            one, other = inputs.chunk(2)
            wanted = forward(one)
            if path in layers and path not in done:
                done.add(path)
                name, module, mask = layers[path]
                norm = twins[followers[path]] if path in followers else None
                assert norm is None or isinstance(norm, _BatchNorm)
                repair(Layer(name, module, mask, norm), other, wanted)
            return torch.cat([wanted, twins[path](other)])

        return both

    try:
        for path, module in replaced.items():
            module.forward = paired(path, module.forward)
        yield
    finally:
        for module in replaced.values():
            del module.forward
