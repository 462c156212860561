"""What networks cost where they run: milliseconds and memory, measured in turns in one process."""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from px_seg.analysis.flops import count_flops
from px_seg.cost import peak_bytes, timings
from px_seg.deploy.exported import Exported, files_of
from px_seg.errors import InputError
from px_seg.pruning import prunable
from px_seg.pruning.modes import evaluating


class Cost(NamedTuple):
    """What a network costs for one batch."""

    milliseconds: float
    """The median over all repeats."""
    quartiles: tuple[float, float]
    """The first and the third of the milliseconds."""
    peak_bytes: int
    """The most memory that its forward pass holds beyond weights and images."""
    parameters: int
    flops: int
    """Of one image, as dense kernels carry them out."""


class FileCost(NamedTuple):
    """What a network costs for one batch that another runtime carries out."""

    milliseconds: float
    """The median over all repeats."""
    quartiles: tuple[float, float]
    """The first and the third of the milliseconds."""
    bytes: int
    """Of the file, with its weights where these are beside it."""


def network_costs(
    networks: Mapping[str, nn.Module], images: Tensor, repeats: int = 30, compiled: bool = False
) -> dict[str, Cost]:
    """The cost of a forward pass of each network in eval mode on `images`, (N, C, H, W), all on one device.

    They are run in turns, after a warm-up, so that a machine that slows down does so for all; with `compiled`, by
    torch.compile. The networks come back as they were.

    Raises InputError for fewer than three repeats.
    """
    return costs_in_turns(networks, {}, images, repeats, compiled)[0]


def costs_in_turns(
    networks: Mapping[str, nn.Module],
    files: Mapping[str, Exported],
    images: Tensor,
    repeats: int = 30,
    compiled: bool = False,
) -> tuple[dict[str, Cost], dict[str, FileCost]]:
    """`network_costs`, and those of exported files, all in turns."""
    if repeats < 3:
        raise InputError(f"a median and quartiles take at least 3 repeats, got {repeats}")
    if compiled:
        # Networks of one class share their code, of which torch compiles a few versions and then no more.
        torch.compiler.reset()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for network in networks.values():
            stack.enter_context(evaluating(network))
        works = {
            name: partial(torch.compile(network) if compiled else network, images) for name, network in networks.items()
        }
        spent = timings(
            images.device, {**works, **{name: partial(one, images) for name, one in files.items()}}, repeats
        )
        peaks = {name: peak_bytes(images.device, work) for name, work in works.items()}
    costs = {name: _cost(network, images, spent[name], peaks[name]) for name, network in networks.items()}
    return costs, {name: _file_cost(one, spent[name]) for name, one in files.items()}


def _file_cost(exported: Exported, seconds: list[float]) -> FileCost:
    first, median, third = _quartiles(seconds)
    return FileCost(median, (first, third), sum(file.stat().st_size for file in files_of(exported.file)))


def _quartiles(seconds: list[float]) -> list[float]:
    """Of milliseconds."""
    return [1000 * cut for cut in statistics.quantiles(seconds, n=4, method="inclusive")]


def _cost(network: nn.Module, images: Tensor, seconds: list[float], peak: int) -> Cost:
    first, median, third = _quartiles(seconds)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(
        median, (first, third), peak, parameters, count_flops(network, prunable(network), images.shape[1:]).total
    )
