"""Pruning under torchrun: each rank walks its share of the batches and writes down its masks and scores."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from helpers.networks import Drawn
from px_seg import PX, criterion, prune

PIECES = ["norm", "relu_", "residual_", "max", "projected", "concat", "squeeze"]


def network() -> Drawn:
    return Drawn(PIECES, 0, dense=True).float()


SETTINGS: dict[str, dict] = {
    "fold": {},
    "batch": {"bn": "batch", "precision": "float64"},
    "released": {"bn": "released", "precision": "float64"},
    "gathered": {"statistics": "batches"},
}

CRITERIA = (
    "random",
    "random_erk",
    "magnitude",
    "snip",
    "iterative_snip",
    "grasp",
    "synflow",
    "synflow_l2",
    "ntksap",
    "fisher",
    "px_conserved",
    "px_paths",
    "ntk_trace",
)


def labelled() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches with labels, some of them ignored; one image has none at all."""
    generator = torch.Generator().manual_seed(1)
    labels = [torch.randint(0, 2, (len(x), 12, 12), generator=generator) for x in batches()]
    labels[0][:, :5] = 255
    labels[1][0] = 255
    return list(zip(batches(), labels, strict=True))


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 12, 12, generator=generator) for n in (2, 2, 1)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    folder, world = Path(sys.argv[1]), dist.group.WORLD
    net = network()
    share = batches()[rank::ranks]
    for name, settings in SETTINGS.items():
        prune(net, share, 0.8, PX(**settings), rounds=10, group=world).save(folder / f"{name}{rank}.safetensors")
        save_file(PX(**settings).score(net, share, group=world), folder / f"{name}_scores{rank}.safetensors")
    # More processes than batches: the last ones only listen.
    few = batches()[:1][rank::ranks]
    prune(net, few, 0.8, PX(), rounds=3, group=world).save(folder / f"few{rank}.safetensors")
    save_file(PX().score(net, few, group=world), folder / f"few_scores{rank}.safetensors")
    # One process in another memory layout.
    layout = torch.channels_last if rank else torch.contiguous_format
    mixed = [x.to(memory_format=layout) for x in share]
    scores = PX().score(net.to(memory_format=layout), mixed, group=world)
    save_file({n: score.contiguous() for n, score in scores.items()}, folder / f"mixed_scores{rank}.safetensors")
    for name in CRITERIA:
        share = labelled()[rank::ranks]
        prune(net, share, 0.8, criterion(name), rounds=3, group=world).save(folder / f"{name}{rank}.safetensors")
    # Nothing to score with on one process: no labels, or no batch that fits.
    for name, wrong in {"unlabelled": share if rank else batches(), "none": []}.items():
        try:
            criterion("snip").score(net, wrong, group=world)
        except ValueError as error:
            (folder / f"{name}{rank}.txt").write_text(str(error))
    share = batches()[rank::ranks]
    # Samples of another shape on one process, and of two shapes on one process.
    other = torch.randn(1, 3, 8, 8)
    for name, wrong in {"across": [other] if rank else share, "within": [*share, other] if rank else share}.items():
        try:
            PX().score(net, wrong, group=world)
        except ValueError as error:
            (folder / f"{name}{rank}.txt").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()
    # All is written. A thread of torch's that outlives the interpreter would abort the process on its way out.
    os._exit(0)
