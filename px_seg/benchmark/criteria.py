"""Criteria side by side: what a round of each costs, and what their masks leave of a network."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from px_seg.analysis.layer_collapse import collapse
from px_seg.benchmark.px import SCOPE, Case, Setting, device_name
from px_seg.cost import peak_bytes, seconds
from px_seg.errors import InputError
from px_seg.losses import cross_entropy
from px_seg.models import load_model
from px_seg.pruning import CRITERIA, IMP, Criterion, Masks, criterion
from px_seg.tasks import score_by

CLASSES = 21


def costs(case: Case, names: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of one round of each criterion, ranking included, and of inference over the same batches.

    Targets are drawn at random, a tenth of them ignored. Memory counts the model and the images on both
    sides. For imp a round is one epoch of SGD over the batches, and the ranking.
    """
    setting = Setting.of(case)
    batches = [(images, _labels(images, number)) for number, images in enumerate(setting.images)]
    inference = setting.held() + peak_bytes(setting.device, setting.infer)
    rows = []
    for name in names:
        ranked_by = _equipped(name, batches)

        def one_round(ranked_by: Criterion = ranked_by) -> None:
            scores = ranked_by.score(setting.model, batches, setting.masks, SCOPE)
            setting.masks.keep_top(scores, 0.97 * setting.masks.density)

        times = seconds(setting.device, {"inference": setting.infer, "round": one_round}, repeats)
        memory = setting.held() + peak_bytes(setting.device, one_round)
        rows.append(
            {
                "method": name,
                "rounds": "by sparsity" if isinstance(ranked_by, IMP) else ranked_by.rounds,
                "ratio": times["round"] / times["inference"],
                "round_s": times["round"],
                "inference_s": times["inference"],
                "mib": memory / 2**20,
                "memory_ratio": memory / inference,
            }
        )
    return rows


def report_costs(case: Case, names: Sequence[str], repeats: int) -> None:
    """Print the rows of `costs` as a Markdown table, each as soon as it is known.

    Raises InputError for an unknown method and fewer than one repeat.
    """
    names = list(names) or [name for name in CRITERIA if name != "dense"]
    for name in names:
        criterion(name)
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    print(
        f"{case.encoder} at stride {case.output_stride}, {case.batches} batches of {case.batch_size}x3x{case.side}x"
        f"{case.side}, {case.sparsity:.0%} pruned, {device_name(case)}\n"
    )
    print("| method | rounds | one round / inference | one round s | peak memory / inference | peak MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        (row,) = costs(case, [name], repeats)
        print(
            f"| {row['method']} | {row['rounds']} | {row['ratio']:.2f} | {row['round_s']:.2f} | "
            f"{row['memory_ratio']:.2f} | {row['mib']:.0f} |",
            flush=True,
        )


def report_collapse(runs: Sequence[Path]) -> None:
    """Print a Markdown table of what the masks of finished runs leave of their networks.

    Raises InputError for a folder that holds no finished run.
    """
    if not runs:
        raise InputError("collapse needs the folders of finished runs: name them with --runs a b")
    finished = [(run, _results(run)) for run in runs]
    print("| method | pruned | layers without weights | thinnest other layer | kept weights on no path | score |")
    print("|---|---|---|---|---|---|")
    for run, results in finished:
        model = load_model(run / "model")
        stride = results.get("output_stride", 1)
        size = -(-results["data"]["size"] // stride) * stride
        masks = Masks.load(run / "masks.safetensors", model)
        score = score_by(results)
        found = collapse(model, masks, (3, size, size))
        print(
            f"| {results['method']} | {results['backbone_sparsity']:.2%} | {len(found.empty)} of {len(masks)} | "
            f"{100 * found.thinnest:.2g}% | {found.stranded:.1%} | {score.text(results[score.name])} {score.label} |",
            flush=True,
        )


def _results(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "results.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise InputError(f"{run} holds no finished run: there is no readable results.json") from None


def _labels(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(images), *images.shape[2:])
    labels = torch.randint(0, CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.1] = 255
    return labels.to(images.device)


def _equipped(name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Criterion:
    ranked_by = criterion(name)

    def one_epoch(model: nn.Module, masks: Masks) -> None:
        model.train()
        optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
        with masks.hold(model, optimizer):
            for images, labels in batches:
                optimizer.zero_grad()
                cross_entropy(model(images), labels).backward()
                optimizer.step()

    return replace(ranked_by, train=one_epoch) if isinstance(ranked_by, IMP) else ranked_by
