"""What pruning pays: networks dense, masked and compacted, in parameters, megabytes, operations and milliseconds."""

import copy
import statistics
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from px_seg.analysis.flops import count_flops
from px_seg.analysis.layer_collapse import collapse
from px_seg.benchmark.operators import breakdown
from px_seg.benchmark.photographs import read_photographs
from px_seg.benchmark.pretrained import Asked, Setting, all_named, pruned
from px_seg.benchmark.rows import PrunedRow, read_rows, write_rows
from px_seg.cost import timings
from px_seg.deploy.latency import network_costs
from px_seg.errors import InputError
from px_seg.models import build_segmenter, check_segmenter, normalisation_of
from px_seg.pruning import Masks, prunable
from px_seg.pruning.compaction.shrinking import compact, shrink
from px_seg.pruning.modes import undisturbed
from px_seg.repair import recalibrate

FILE = "payoff.csv"


@dataclass(frozen=True)
class Case:
    """A DeepLabV3+ whose backbone is pruned, and what its forward pass and its training step are measured on.

    Args:
        encoder: backbone, as segmentation-models-pytorch names it
        weights: of the backbone, as --weights names them; with none, BatchNorm's statistics are those of the
            photographs that prune
        root: folder of a dataset laid out like VOC2012, whose training images prune
        output_stride: 8 or 16
        side: height and width of the images, a multiple of 32
        batch_size: images of a forward pass
        train_batch_size: images of a training step
        prune_images: photographs to prune by
        repeats: forward passes and steps of each network; the median counts
        threads: CPU threads
        seed: of random weights and criteria
    """

    encoder: str = "resnet50"
    weights: str = "none"
    root: str = "data/photo"
    output_stride: int = 16
    side: int = 256
    batch_size: int = 1
    train_batch_size: int = 8
    prune_images: int = 16
    repeats: int = 15
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Row(PrunedRow):
    """What one pruned network costs, beside the dense one; times are medians."""

    train_batch_size: int
    effective_sparsity: float
    """Of the backbone: weights that are pruned or on no path."""
    parameters: float
    """Of the compacted network, zeros included, as a share of the dense one's; so are the next four."""
    megabytes: float
    flops: float
    milliseconds: float
    step: float
    masked: float
    """Milliseconds of the network with zeros, as a share of the dense one's."""
    held: float
    """A training step of the compacted network under its masks, over one of the same network with all weights free."""
    dense_milliseconds: float
    dense_step_milliseconds: float
    dense_megabytes: float
    dense_gflops: float


def report_payoff(
    case: Case, methods: Sequence[str], sparsities: Sequence[float], output: Path, say: Callable[[str], Any] = print
) -> list[Row]:
    """Measure every method at every sparsity, row by row into payoff.csv in `output`; rows that are there stay.

    Methods are written as `px_seg.benchmark.pretrained.report_preservation` reads them. Returns all rows of the file.
    """
    named = all_named(methods, case.seed, sparsities)
    setting = setting_of(case)
    size = case.train_batch_size
    known = {row.cell for row in read_rows(output / FILE, Row) if row.train_batch_size == size}
    for cell, masks in pruned_cells(case, setting, named, sparsities, known):
        row = Row(**cell, train_batch_size=size, **_measured(case, setting.model, masks))
        write_rows(output / FILE, [*read_rows(output / FILE, Row), row])
        say(
            f"{case.encoder} {row.method} {row.sparsity:.0%}: {row.flops:.2f} of the FLOPs, {row.milliseconds:.2f} of "
            f"the milliseconds, {row.step:.2f} of a training step's"
        )
    return read_rows(output / FILE, Row)


def report_operators(
    case: Case, methods: Sequence[str], sparsities: Sequence[float], say: Callable[[str], Any] = print
) -> None:
    """Say where a forward pass spends its time, dense and compacted, for every method at every sparsity.

    Of `case.repeats` passes each, in turns, the median of every kind of operator counts.
    """
    named = all_named(methods, case.seed, sparsities)
    setting = setting_of(case)
    draws = torch.Generator().manual_seed(case.seed)
    images = torch.randn(case.batch_size, 3, case.side, case.side, generator=draws)
    for cell, masks in pruned_cells(case, setting, named, sparsities):
        small = compact(setting.model, masks)
        dense, left = _spent(setting.model, small, images, case.repeats)
        flops = [count_flops(net, prunable(net), images.shape[1:]).total for net in (setting.model, small)]
        say(f"{case.encoder} {cell['method']} {cell['sparsity']:.0%}: {flops[1] / flops[0]:.2f} of the FLOPs")
        say(f"{'milliseconds in':40}    dense  compacted")
        for kind in dense:
            say(f"{kind:40}{1000 * dense[kind]:9.2f}  {1000 * left[kind]:9.2f}")
        say(f"{'all':40}{1000 * sum(dense.values()):9.2f}  {1000 * sum(left.values()):9.2f}")


def _spent(dense: nn.Module, small: nn.Module, images: Tensor, repeats: int) -> tuple[dict[str, float], ...]:
    """Seconds by kind of operator, of each network."""
    runs: tuple[list[dict[str, float]], ...] = ([], [])
    with torch.inference_mode():
        for _ in range(repeats):
            for network, found in zip((dense, small), runs, strict=True):
                found.append(breakdown(images.device, partial(network, images)))
    return tuple({kind: statistics.median(run[kind] for run in found) for kind in found[0]} for found in runs)


def pruned_cells(
    case: Case,
    setting: Setting,
    named: Mapping[str, Asked],
    sparsities: Sequence[float],
    known: Container[tuple[Any, ...]] = (),
) -> Iterator[tuple[dict[str, Any], Masks]]:
    """The first columns of the row of every method at every sparsity that is not known, and its masks."""
    batches = setting.labelled()
    where = {field.name: getattr(case, field.name) for field in fields(PrunedRow) if hasattr(case, field.name)}
    for (method, own), sparsity in product(named.items(), sparsities):
        cell = {**where, "method": method, "sparsity": float(sparsity)}
        if tuple(cell.values()) not in known:
            yield cell, pruned(setting, batches, own, sparsity)


def setting_of(case: Case) -> Setting:
    """The dense network of a case, and the photographs to prune it by.

    Raises InputError for what cannot be built, and for too few images.
    """
    for name in ("batch_size", "train_batch_size", "prune_images", "threads"):
        if getattr(case, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(case, name)}")
    if case.side < 32 or case.side % 32:
        raise InputError(f"side must be a multiple of 32, got {case.side}")
    check_segmenter(case.encoder, case.output_stride)
    torch.set_num_threads(case.threads)
    torch.manual_seed(case.seed)
    model = build_segmenter(case.encoder, classes=21, weights=case.weights, output_stride=case.output_stride).eval()
    images = read_photographs(
        case.root, "train", case.prune_images, case.side, 4, normalisation_of(case.encoder, case.weights)
    )
    if case.weights == "none":
        recalibrate(model, images)
    return Setting(model, "encoder", images, [])


def _measured(case: Case, dense: nn.Module, masks: Masks) -> dict[str, Any]:
    found = shrink(dense, masks, (3, 64, 64))
    small = found.model
    with undisturbed(torch.device("cpu")):
        masked = _masked(dense, masks)
        draws = torch.Generator().manual_seed(case.seed)
        images = torch.randn(case.batch_size, 3, case.side, case.side, generator=draws)
        costs = network_costs({"dense": dense, "masked": masked, "compacted": small}, images, case.repeats)
        free = Masks({})
        steps = _steps(case, {"dense": (dense, free), "compacted": (small, Masks(found.masks)), "free": (small, free)})
    flops = [count_flops(network, prunable(network), images.shape[1:]).total for network in (dense, small)]
    sizes = [megabytes(network) for network in (dense, small)]
    ms = {name: cost.milliseconds for name, cost in costs.items()}
    live = masks.kept * (1 - collapse(dense, masks, images.shape[1:]).stranded)
    return {
        "effective_sparsity": 1 - live / masks.total,
        "parameters": costs["compacted"].parameters / costs["dense"].parameters,
        "megabytes": sizes[1] / sizes[0],
        "flops": flops[1] / flops[0],
        "milliseconds": ms["compacted"] / ms["dense"],
        "step": steps["compacted"] / steps["dense"],
        "masked": ms["masked"] / ms["dense"],
        "held": steps["compacted"] / steps["free"],
        "dense_milliseconds": ms["dense"],
        "dense_step_milliseconds": 1000 * steps["dense"],
        "dense_megabytes": sizes[0],
        "dense_gflops": flops[0] / 1e9,
    }


def _masked(dense: nn.Module, masks: Masks) -> nn.Module:
    masked = copy.deepcopy(dense)
    masks.apply(masked)
    return masked


def _steps(case: Case, networks: Mapping[str, tuple[nn.Module, Masks]]) -> dict[str, float]:
    """Seconds of a training step of each network under its masks, on random images and labels."""
    draws = torch.Generator().manual_seed(case.seed)
    images = torch.randn(case.train_batch_size, 3, case.side, case.side, generator=draws)
    labels = torch.randint(0, 21, (case.train_batch_size, case.side, case.side), generator=draws)
    with ExitStack() as stack:
        works = {}
        for name, (network, masks) in networks.items():
            network = copy.deepcopy(network).train()
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
            stack.enter_context(masks.hold(network, optimizer))
            works[name] = partial(_step, network, optimizer, images, labels)
        measured = timings(images.device, works, max(3, case.repeats // 3))
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def megabytes(network: nn.Module) -> float:
    """Of all its numbers, BatchNorm's statistics among them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()) / 1e6


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows of one or more cases, everything as a share of the dense network's."""
    lines = [
        "| network | side | method | pruned | effective | parameters | MB | FLOPs | ms | ms, masked | step | held |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = (row.parameters, row.megabytes, row.flops, row.milliseconds, row.masked, row.step, row.held)
        lines.append(
            f"| {row.encoder} | {row.side} | `{row.method}` | {row.sparsity:.0%} | {row.effective_sparsity:.1%} | "
            + " | ".join(f"{share:.2f}" for share in shares)
            + " |"
        )
    return "\n".join(lines)
