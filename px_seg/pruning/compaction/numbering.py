"""What a function does to the channels of a tensor, seen on one whose elements are their channel's number."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from px_seg.pruning.paths.operations import Function


def channels_of(tensor: Tensor) -> int:
    """How many channels it has: those of dimension 1, or one where there is none."""
    return tensor.shape[1] if tensor.dim() > 1 else 1


def numbered(like: Tensor) -> Tensor:
    """A tensor of this shape whose elements are the number of their channel, from 1 on."""
    if like.dim() < 2:
        return torch.ones_like(like, dtype=torch.float64)
    numbers = torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device)
    return numbers.view(1, -1, *[1] * (like.dim() - 2)).expand(like.shape).clone(memory_format=torch.contiguous_format)


def _shares(seen: Tensor, before: Tensor) -> Tensor | None:
    """What became of numbered channels, in shares of the number that each place is for; None where none is.

    One channel may become several, which lie together.
    """
    channels = channels_of(before)
    if seen.dim() < 2 or before.dim() < 2 or seen.numel() == 0 or seen.shape[1] % channels:
        return None
    wanted = torch.arange(1, channels + 1, dtype=torch.float64, device=seen.device)
    wanted = wanted.repeat_interleave(seen.shape[1] // channels)
    return seen / wanted.view(1, -1, *[1] * (seen.dim() - 2))


def stays_apart(seen: Tensor, before: Tensor) -> bool:
    """Whether every channel is made of its own elements alone: a sum or average of them, the same in all channels."""
    shares = _shares(seen, before)
    if shares is None:
        return False
    alike = shares[:, :1] if seen.shape[1] == channels_of(before) else torch.ones_like(shares)
    return torch.allclose(shares, alike.expand_as(shares))


def keeps_values(seen: Tensor, before: Tensor) -> bool:
    """Whether a channel that is the same everywhere stays as it is."""
    shares = _shares(seen, before)
    return shares is not None and torch.allclose(shares, torch.ones_like(shares))


def names_channels(func: Function, dims: int, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the function would do something else with fewer channels, because it names them or their number."""
    if func in (Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand):
        sizes = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
        return len(sizes) < 2 or sizes[1] != -1
    if func in (torch.split, Tensor.split, torch.chunk, Tensor.chunk):
        return (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % dims == 1
    if func in (torch.squeeze, Tensor.squeeze):
        return not args and "dim" not in kwargs
    if func is Tensor.__getitem__:
        index = list(args[0]) if isinstance(args[0], tuple) else [args[0]]
        if any(part is Ellipsis for part in index):
            place = next(n for n, part in enumerate(index) if part is Ellipsis)
            index[place : place + 1] = [slice(None)] * (dims - len(index) + 1)
        return any(not isinstance(part, slice) or part != slice(None) for part in index[1:2])
    return False
