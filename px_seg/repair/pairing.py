"""The dense network and the pruned one on the same images, layer by layer, in one pass."""

import copy
from collections import Counter, defaultdict
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
        alone = _noted(dense, images[:1], layers)
        with _paired(dense, pruned, layers, alone, repair, len(images)):
            dense(torch.cat([images, images]))
    return pruned


class _Noted(NamedTuple):
    """What one image shows of a network."""

    norms: dict[str, str]
    """By path of a layer, the BatchNorm that alone reads what it returns, at its first use if there are several, and
    that reads nothing else."""
    given: dict[str, list[tuple[torch.Size, Tensor]]]
    """For every call of a layer or a BatchNorm, the shape of its inputs and their mean sizes along the first dimension,
    which tell the parts of one image from another's."""
    independent: bool
    """Whether these are the same in a batch: not where a BatchNorm has no statistics but the batch's."""


def _sizes(inputs: Tensor) -> Tensor:
    return inputs.flatten(1).abs().mean(1) if inputs.dim() > 1 else inputs.abs()


def _noted(model: nn.Module, image: Tensor, layers: Mapping[str, tuple[str, nn.Module, Tensor]]) -> _Noted:
    """InputError for a weight that is read otherwise than once in every call of its layer."""
    outputs: list[tuple[str, Tensor]] = []
    returned_by: dict[int, str] = {}
    read_by: dict[int, str] = {}
    sources: defaultdict[str, set[str | None]] = defaultdict(set)
    given: defaultdict[str, list[tuple[torch.Size, Tensor]]] = defaultdict(list)
    weights = {path: model.get_submodule(path).get_parameter("weight") for path in layers}
    readers = _Readers(weights.values())

    def note(path: str, module: nn.Module, arguments: Sequence[Tensor], named: Mapping[str, Tensor], out: Any) -> None:
        (inputs,) = (*arguments, *named.values())
        with readers.aside():
            given[path].append((inputs.shape, _sizes(inputs)))
        if isinstance(module, _BatchNorm):
            source = returned_by.get(id(inputs))
            sources[path].add(source)
            if source is not None:
                read_by[id(inputs)] = path
        if path in layers:
            # Kept, so that no other tensor gets its identity, which one that is gone may have had before.
            outputs.append((path, out))
            returned_by[id(out)] = path
            readers.counts[id(out)] = 0

    hooks = [
        module.register_forward_hook(
            lambda module, arguments, named, out, path=path: note(path, module, arguments, named, out), with_kwargs=True
        )
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
    norms = {
        path: read_by[id(output)]
        for path, output in first.items()
        if id(output) in read_by and readers.counts[id(output)] == 1 and sources[read_by[id(output)]] == {path}
    }
    independent = all(model.get_submodule(path).running_mean is not None for path in sources)
    return _Noted(norms, dict(given), independent)


class _Readers(TorchFunctionMode):
    """Counts how many operations read the tensors in `counts`, by identity; what returns no tensor is none."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.counts = Counter({id(tensor): 0 for tensor in tensors})
        self.counting = True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within the context nothing counts."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if self.counting and any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.counts.update(read & self.counts.keys())
        return found


def _differ(inputs: Tensor, sizes: Tensor) -> bool:
    """Whether the first image's part of the inputs is none; NaN and infinity are told of by the repair as a whole."""
    return bool((_sizes(inputs[: len(sizes)]) - sizes).abs().max() > 1e-3 * sizes.max())


@contextmanager
def _paired(
    dense: nn.Module,
    pruned: nn.Module,
    layers: Mapping[str, tuple[str, nn.Module, Tensor]],
    alone: _Noted,
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
    expected = {path: iter(calls) for path, calls in alone.given.items()}
    done: set[str] = set()

    def paired(path: str, forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def both(*given: Tensor, **named: Tensor) -> Tensor:
            (inputs,) = (*given, *named.values())
            shape, sizes = next(expected[path])
            fits = len(inputs) == 2 * images * len(sizes) and inputs.shape[1:] == shape[1:]
            if not fits or (alone.independent and _differ(inputs, sizes)):
                raise InputError(
                    f"{path} is given {tuple(inputs.shape)} for {2 * images} images, which are not in the first "
                    "dimension, and cannot be repaired: use statistics"
                )
            one, other = inputs.chunk(2)
            wanted = forward(one)
            if path in layers and path not in done:
                done.add(path)
                name, module, mask = layers[path]
                norm = twins[alone.norms[path]] if path in alone.norms else None
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
