"""What a repair after pruning costs compared with plain inference, how that grows, and which ridge serves."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from px_seg.analysis import preservation
from px_seg.benchmark import pretrained
from px_seg.benchmark.px import SCOPE, Case, Setting
from px_seg.cost import peak_bytes, seconds
from px_seg.errors import InputError
from px_seg.pruning import Masks, Random, prune
from px_seg.repair import REPAIRS, recalibrate


def report_costs(
    case: Case, repairs: Sequence[str], sparsities: Sequence[float], sides: Sequence[int], repeats: int
) -> None:
    """Print seconds and peak memory of every repair, and their ratios to inference over the same images.

    A Markdown table. Masks are drawn at random, in the proportions of Erdos-Renyi-Kernel: every layer keeps something.
    """
    if unknown := [repair for repair in repairs if repair not in REPAIRS]:
        raise InputError(f"there is no repair {unknown[0]!r}: choose from {', '.join(REPAIRS)}")
    for what, values in (("--repairs", repairs), ("--sparsities", sparsities), ("--sides", sides)):
        if not values:
            raise InputError(f"{what} has no value: give at least one")
    if wrong := [sparsity for sparsity in sparsities if not 0 < sparsity < 1]:
        raise InputError(f"a sparsity must be a share above 0 and below 1, got {wrong[0]:g}")
    images = case.batches * case.batch_size
    print(f"{case.encoder} in DeepLabV3+, output stride {case.output_stride}, {images} images\n")
    print("| side | pruned | repair | seconds | by inference's | peak, MiB | by inference's |")
    print("|---:|---:|---|---:|---:|---:|---:|", flush=True)
    for side in sides:
        for row in _costs(replace(case, side=side, sparsity=0.0), repairs, sparsities, repeats):
            print(row, flush=True)


def _costs(case: Case, repairs: Sequence[str], sparsities: Sequence[float], repeats: int) -> Iterator[str]:
    setting = Setting.of(case)
    held = setting.held()
    inference = held + peak_bytes(setting.device, setting.infer)
    for sparsity in sparsities:
        masks = prune(setting.model, (), sparsity, Random(), SCOPE, ranking="erk")
        for repair in repairs:
            repaired = partial(_repaired, setting, masks, repair)
            times = seconds(setting.device, {"inference": setting.infer, repair: repaired}, repeats)
            peak = held + peak_bytes(setting.device, repaired)
            yield (
                f"| {case.side} | {sparsity:.0%} | {repair} | {times[repair]:.1f} | "
                f"{times[repair] / times['inference']:.1f} | {peak / 2**20:.0f} | {peak / inference:.1f} |"
            )


def _repaired(setting: Setting, masks: Masks, repair: str) -> None:
    recalibrate(copy.deepcopy(setting.model), setting.images, masks, repair)


def report_ridges(
    case: pretrained.Case, methods: Sequence[str], sparsities: Sequence[float], ridges: Sequence[float]
) -> None:
    """Print how well reconstructed networks are the dense one on other images, by ridge, as a Markdown table.

    Methods are written as `pretrained.report_preservation` reads them. The first row of each network is the
    network before the repair.
    """
    if not ridges or min(ridges) <= 0:
        raise InputError(f"--ridges takes numbers above 0, got {list(ridges)}")
    named = pretrained.all_named(methods, case.seed, sparsities)
    setting = pretrained.Setting.of(case)
    stages = ["encoder"] if case.segmenter else case.stages
    batches = setting.labelled()
    print(f"{case.title}, {case.prune_images} images to repair by, {case.judge_images} others to judge by\n")
    print("| method | pruned | ridge | CKA of the last stage | agreement | error |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for method, own in named.items():
        for sparsity in sparsities:
            masks = pretrained.pruned(setting, batches, own, sparsity)
            for ridge in (None, *ridges):
                network = None
                if ridge is not None:
                    network = copy.deepcopy(setting.model)
                    recalibrate(network, setting.prune_by, masks, "reconstruct", ridge)
                with torch.no_grad():
                    found = preservation(setting.model, masks, setting.judge_by, stages, network)
                last = list(found.cka.values())[-1]
                print(
                    f"| `{method}` | {100 * sparsity:g}% | {'none' if ridge is None else f'{ridge:g}'} | {last:.3f} | "
                    f"{found.agreement:.3f} | {found.error:.3f} |",
                    flush=True,
                )
