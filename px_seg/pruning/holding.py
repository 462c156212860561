"""Pruned weights stay exactly 0 through training, at the cost of one pass over every gradient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

STAY = (SGD, Adam, AdamW)
"""Optimizers that leave a weight of 0 where its gradient, and what they remember of it, are 0. Not what inherits.

Where `eps` is 0, Adam's update is 0 / 0.
"""


@contextmanager
def held_at_zero(pruned: Mapping[nn.Parameter, Tensor], optimizer: Optimizer) -> Iterator[None]:
    """Within the context weights stay 0 that are 0: those of each parameter where its mask is False.

    Their gradients become 0 as they arrive, whatever they are, and what the optimizer remembers of them is 0 from the
    start, or from when it is loaded. Weights that an optimizer moves all the same are set to 0 again after its step.
    """
    bits = {parameter: _bits(parameter, mask) for parameter, mask in pruned.items()}

    def forget(*_: object) -> None:
        for parameter, live in bits.items():
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    _clear(value, live)

    def settle(*_: object) -> None:
        for parameter, live in bits.items():
            _clear(parameter, live)

    forget()
    handles = [optimizer.register_load_state_dict_post_hook(forget)]
    if type(optimizer) not in STAY or any(group.get("eps") == 0 for group in optimizer.param_groups):
        handles.append(optimizer.register_step_post_hook(settle))
    for parameter, live in bits.items():
        if parameter.requires_grad:
            # Before DistributedDataParallel sees it, whose mean over processes is then 0 as well. torch says nothing of
            # this method's types.
            handles.append(parameter.register_post_accumulate_grad_hook(_silencing(live)))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silencing(live: Tensor) -> Callable[[Tensor], None]:
    def silence(parameter: Tensor) -> None:
        if parameter.grad is not None:
            _clear(parameter.grad, live)

    return silence


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes."""


def _bits(like: Tensor, mask: Tensor) -> Tensor:
    """A whole number beside each of `like`'s, laid out alike: all bits set where the mask is True, or none."""
    whole = torch.empty_like(like, dtype=_WHOLE[like.element_size()], requires_grad=False)
    return whole.copy_(mask).neg_()


def _clear(values: Tensor, live: Tensor) -> None:
    """Set to 0 in place, infinities and NaN as well, what has no bit set beside it.

    At the speed of memory, several times that of `masked_fill_`.
    """
    if values.dtype.itemsize == live.dtype.itemsize:
        values.detach().view(live.dtype).bitwise_and_(live)
    else:
        values.detach().masked_fill_(live == 0, 0)
